"""What the queue costs, beside what else there is: `python -m parkline.bench`."""
