"""One reader for each kind of source: folders, arrays, published data sets, built-in ones."""
