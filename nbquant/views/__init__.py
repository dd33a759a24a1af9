"""Figures: ``x_data(values)`` computes the numbers, ``plot_x`` or ``draw_x`` the figure."""
