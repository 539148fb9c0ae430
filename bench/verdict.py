"""One target and what was measured, as a line of a digest."""

from __future__ import annotations


def line(name: str, value: float | None, target: float, most: bool = False) -> str:
    """One target: at least, or at most."""
    bound = f"{'≤' if most else '≥'} {target:g}"
    if value is None:
        return f"  {name:<50} {'-':>8}  target {bound:<7} NOT MEASURED"
    met = value <= target if most else value >= target
    return f"  {name:<50} {value:>8.3g}  target {bound:<7} {'met' if met else 'NOT MET'}"
