"""What runs in pods beside the models: `transfer` and `inspect` in the preparation Job, `fetch` in serving pods."""
