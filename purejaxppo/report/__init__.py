"""Pictures of runs: learning curves, films of episodes, and a page that shows everything."""

from purejaxppo.report.drawings import check_picture
from purejaxppo.report.film import check_film, film_episode
from purejaxppo.report.page import rewrite_page
from purejaxppo.report.plots import plot_comparison, plot_curves
from purejaxppo.report.sweep import plot_sweep

__all__ = [
    "check_film",
    "check_picture",
    "film_episode",
    "plot_comparison",
    "plot_curves",
    "plot_sweep",
    "rewrite_page",
]
