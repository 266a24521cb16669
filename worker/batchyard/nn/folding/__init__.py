"""Folding batch normalisation into its neighbours, and proving that nothing changed."""
