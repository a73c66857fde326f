#!/bin/sh
# `hatch run test`: all tests, then the library's own on its oldest dependencies; with arguments what pytest is given.
[ $# -eq 0 ] || exec pytest "$@"
status=0
pytest || status=$?
echo "The library on the oldest dependencies that it supports:"
./hatchw run lowest:test || status=$?
exit $status
