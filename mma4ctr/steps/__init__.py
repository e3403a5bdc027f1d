"""What the scripts share: options, training runs, and the scheduler of many runs."""
