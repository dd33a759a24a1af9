"""Server script of ``nbquant app``: Voilà on app.ipynb, for this machine's user alone."""

import html
import os
import tempfile
import threading
import webbrowser
from pathlib import Path

from voila.app import Voila

# Whatever else is installed for JupyterLab may not suit Voilà, and says so in the browser's console.
EXTENSIONS = ["@jupyter-widgets/jupyterlab-manager", "@voila-dashboards/widgets-manager8", "anywidget"]
HERE = Path(__file__).resolve().parent


class App(Voila):
    """Voilà with a prompt kernel connection, and without login in the browser it opens."""

    def initialize(self, argv=None):
        """Apply the JupyterLab settings of ``nbquant explore`` that concern Voilà, too."""
        super().initialize(argv)
        self.load_config_file("jupyter_server_config", path=[str(HERE)])
        self.kernel_websocket_connection_class = self.config.ServerApp.kernel_websocket_connection_class
        self.voila_configuration.extension_allowlist = EXTENSIONS

    def launch_browser(self):
        """Open the page with its token through a file: on a command line other users could read the token."""
        handle, page = tempfile.mkstemp(suffix=".html")  # readable for its owner only
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0;url={html.escape(self.display_url)}">')
        threading.Thread(target=webbrowser.open, args=[Path(page).as_uri(), 2], daemon=True).start()


if __name__ == "__main__":
    App.launch_instance()
