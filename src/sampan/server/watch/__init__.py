"""What a service knows of its own work: metrics, logs, usage, cost."""
