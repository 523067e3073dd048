"""The one scoring path, and the runtimes that it runs in."""
