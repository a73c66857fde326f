"""What end-to-end tests stand on: child processes, a third-party collector, a server in every way it can be started."""
