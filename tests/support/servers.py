"""Servers that a test may stop and start again."""

from pathlib import Path

from pydantic import SecretStr

from service.embedded.redis import Redis
from service.settings import Settings


class OwnRedis:
    """A broker of one test; it comes back on the same port and with the same password."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server = Redis.start(folder / "redis", folder / "redis.log")

    def used_by(self, settings: Settings) -> Settings:
        """The settings with this broker."""
        return settings.model_copy(update={"broker_url": SecretStr(self._server.url)})

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.child.kill()
        self._server.child.wait()

    def start(self) -> None:
        self._server = Redis.start(self._folder / "redis", self._folder / "redis.log", port=self._server.port)
