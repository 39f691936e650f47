"""What an adapter does to its model, in numbers, and whether that looks healthy: ``excitor inspect``."""
