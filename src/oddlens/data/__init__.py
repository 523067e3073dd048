"""From files and arrays to sets of images, and how these are divided."""
