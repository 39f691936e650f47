"""Fused kernels of the folded term: :mod:`.term` in Triton, :mod:`.launch` runs it, :mod:`.support` says where it can."""
