"""From a kubeconfig, or the pod's service account, to a connection that our client and Kopf share."""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass

import kopf
from kubernetes.aio import client as kubernetes_client
from kubernetes.aio import config as kubernetes_config
from yaml import YAMLError

from bud.errors import InvalidError

# The loader looks into what it reads without asking first whether it is there.
_UNUSABLE = (kubernetes_config.ConfigException, OSError, YAMLError, LookupError, TypeError, AttributeError, ValueError)
_TOKEN_LIFETIME = datetime.timedelta(minutes=10)


@dataclass(frozen=True)
class Connection:
    """Where the API server is and how to prove who we are.

    `namespace` is the one the credentials name by default, for what has no other.
    """

    configuration: kubernetes_client.Configuration
    namespace: str

    @property
    def server(self) -> str:
        return str(self.configuration.host).rstrip("/")

    def ssl_context(self) -> ssl.SSLContext:
        """TLS settings for aiohttp."""
        c = self.configuration
        context = ssl.create_default_context(cafile=c.ssl_ca_cert)
        # Clusters sign their own certificates, often without the extensions that Python 3.13 asks for by default.
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        if c.cert_file:
            context.load_cert_chain(c.cert_file, keyfile=c.key_file)
        if not c.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context

    async def authorization(self) -> str | None:
        """Value of the Authorization header, refreshed when it is near its end; None with client certificates."""
        value: str | None = await self.configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if value is None:
            return None
        scheme, _, token = value.strip().partition(" ")
        return f"Bearer {token.strip()}" if token else f"Bearer {scheme}"

    async def kopf_info(self) -> kopf.ConnectionInfo:
        """The same connection for Kopf; it asks again when a token expires."""
        authorization = await self.authorization()
        c = self.configuration
        return kopf.ConnectionInfo(
            server=self.server,
            ca_path=c.ssl_ca_cert,
            insecure=not c.verify_ssl,
            certificate_path=c.cert_file,
            private_key_path=c.key_file,
            token=authorization.removeprefix("Bearer ") if authorization else None,
            default_namespace=self.namespace,
            proxy_url=c.proxy,
            expiration=datetime.datetime.now(datetime.UTC) + _TOKEN_LIFETIME if authorization else None,
        )


async def connect(kubeconfig: str | None = None, context: str | None = None) -> Connection:
    """Reads the kubeconfig given, else the pod's service account, else the default kubeconfig.

    Raises `InvalidError` with what to do when none of them is usable.
    """
    configuration = kubernetes_client.Configuration()
    try:
        if kubeconfig is None and context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            kubernetes_config.load_incluster_config(client_configuration=configuration)
            return Connection(configuration, _own_namespace())
        await kubernetes_config.load_kube_config(
            config_file=kubeconfig, context=context, client_configuration=configuration, persist_config=False
        )
    except _UNUSABLE as error:
        raise InvalidError(
            f"no usable connection to a cluster: {error}. Give --kubeconfig FILE, or set KUBECONFIG, or run in a pod",
            reason="NoConnection",
        ) from error
    return Connection(configuration, "default")


def _own_namespace() -> str:
    path = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    with open(path, encoding="ascii") as file:
        return file.read().strip()
