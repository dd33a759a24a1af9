"""Server settings that ``nbquant explore`` adds to the user's own through JUPYTER_CONFIG_PATH."""

from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection


class PromptConnection(ZMQChannelsWebsocketConnection):
    """The standard kernel connection with Nagle's algorithm off.

    Tornado leaves it on. A slider's update is several small messages, each of which would wait for the browser to
    acknowledge the one before: up to 40 ms, more than the computation.
    """

    def connect(self):
        """Connect, and send all further messages without delay."""
        self.websocket_handler.set_nodelay(True)
        return super().connect()


c = get_config()  # noqa: F821  (traitlets defines it when it loads this file)
c.ServerApp.kernel_websocket_connection_class = PromptConnection
# Nothing here needs the network: no news, no look for a newer JupyterLab.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.NeverCheckForUpdate"
