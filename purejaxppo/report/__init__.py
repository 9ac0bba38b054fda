"""Pictures of runs: learning curves, films of episodes, and a page that shows everything."""

from purejaxppo.report.charts import best_curves, find_curve
from purejaxppo.report.comparison import plot_beside, plot_comparison
from purejaxppo.report.curves import plot_curve, plot_curves
from purejaxppo.report.drawings import PICTURES, Drawing, Picture, check_picture, find_picture
from purejaxppo.report.film import check_film, film_episode, write_film
from purejaxppo.report.page import rewrite_page, write_run_page, write_sweep_page
from purejaxppo.report.sweep import plot_sweep

__all__ = [
    "PICTURES",
    "Drawing",
    "Picture",
    "best_curves",
    "check_film",
    "check_picture",
    "film_episode",
    "find_curve",
    "find_picture",
    "plot_beside",
    "plot_comparison",
    "plot_curve",
    "plot_curves",
    "plot_sweep",
    "rewrite_page",
    "write_film",
    "write_run_page",
    "write_sweep_page",
]
