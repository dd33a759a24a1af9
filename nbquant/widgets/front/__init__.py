"""The front end: widgets with their JavaScript and CSS, and plotly.js."""
