"""Pages in a browser: for operators, who see each part as it comes, and for engineers, who make detectors."""
