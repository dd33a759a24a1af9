"""The server of ``nbquant app``, a script of its own: Voilà on app.ipynb, for this machine's user alone."""

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
    """Voilà whose kernel connection is prompt, and whose browser need not log in."""

    def initialize(self, argv=None):
        """Take what is for Voilà too of the settings that ``nbquant explore`` gives to JupyterLab."""
        super().initialize(argv)
        self.load_config_file("jupyter_server_config", path=[str(HERE)])
        self.kernel_websocket_connection_class = self.config.ServerApp.kernel_websocket_connection_class
        self.voila_configuration.extension_allowlist = EXTENSIONS

    def launch_browser(self):
        """Open the page with its token, by way of a file: in a command line everyone here could read the token."""
        handle, page = tempfile.mkstemp(suffix=".html")  # readable for its owner only
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f'<meta http-equiv="refresh" content="0;url={html.escape(self.display_url)}">')
        threading.Thread(target=webbrowser.open, args=[Path(page).as_uri(), 2], daemon=True).start()


if __name__ == "__main__":
    App.launch_instance()
