"""The operator's page: each part as it comes, what people say about it, and how the shift goes."""
