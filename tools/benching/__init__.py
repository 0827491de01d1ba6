"""What ``python tools/bench.py`` is made of: bound, contestants, clock, comparison, scaling."""
