#!/bin/sh
# `hatch run test`: all tests, then the library's own with the lean recorder where they take either, and on its oldest
# dependencies; with arguments what pytest is given.
[ $# -eq 0 ] || exec pytest "$@"
# A file's tests stay together: they share what they have started.
parallel="-n auto --dist loadfile"
status=0
pytest $parallel || status=$?
echo "Those of the library that take either recorder, with the lean one:"
cd libs/telemetry/tests || exit
pytest $parallel --recorder=lean conformance properties/*_grpc.py properties/*_sanic.py test_telemetry_annotations.py \
    test_telemetry_conformance.py test_telemetry_grpc_[cos]*.py test_telemetry_propagators.py \
    test_telemetry_recorder.py test_telemetry_sanic.py test_telemetry_sanic_[ahlw]*.py || status=$?
cd - >/dev/null || exit
echo "The library on the oldest dependencies that it supports:"
./hatchw run lowest:test $parallel || status=$?
exit $status
