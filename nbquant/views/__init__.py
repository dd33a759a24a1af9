"""What the user sees: ``x_data(values)`` gives numbers, ``plot_x(data)`` a figure."""
