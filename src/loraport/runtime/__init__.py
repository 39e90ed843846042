"""What a job runs in: log, errors, devices, GPUs, time and memory."""
