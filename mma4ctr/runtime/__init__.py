"""The running process: console output, errors, signals, environment, and parallel work."""
