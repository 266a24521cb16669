"""The gRPC edge: servicers that convert, call once and convert back."""
