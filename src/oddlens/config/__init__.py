"""Settings: frozen, strict, torch-free."""
