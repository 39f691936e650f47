"""Fused kernels of the folded term: :mod:`.term` has them, :mod:`.launch` runs them, :mod:`.support` says where."""
