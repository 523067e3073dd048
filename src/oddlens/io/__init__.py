"""Writing files so that nothing is lost."""
