"""What both planes share at their edge: the domain's errors, their gRPC codes, TLS, tokens and the bind policy."""
