"""What an adapter changed, measured against the same model with the adapter off."""
