"""What a run looks like: its learning curves as a PNG, and its episodes as a GIF."""

from purejaxppo.report.curves import plot_curves
from purejaxppo.report.film import DRAWINGS, check_drawing, draw_cartpole, film_episode, has_drawing, write_film
from purejaxppo.report.keras import plot_keras_curve
from purejaxppo.report.sweep import plot_comparison, plot_sweep

__all__ = [
    "DRAWINGS",
    "check_drawing",
    "draw_cartpole",
    "film_episode",
    "has_drawing",
    "plot_comparison",
    "plot_curves",
    "plot_keras_curve",
    "plot_sweep",
    "write_film",
]
