"""Commands that run until they are told to stop: `oddlens serve` and `oddlens watch`."""
