"""A broker with access control: TLS, users with passwords or certificates, an authorizer that denies what was not
granted. The plain listener that every other broker here has is the administrator's.

Certificates are made anew for each broker, by a CA that exists only for it.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from dev.servers import places
from dev.servers.java import Quorum, cluster_id
from dev.servers.kafka import Kafka
from dev.servers.process import Echo, echo

ITERATIONS = 4_096  # the least that Kafka takes
ANSWER_SECONDS = 20.0


class Grant(NamedTuple):
    """A right: an operation on a resource, both in the words of Kafka's tools."""

    resource: str
    """`topic`, `group`, `transactional_id` or `broker`, which stands for the cluster."""
    name: str
    """A name; with a `*` at its end, all that begin so."""
    operation: str


class LockedKafka(Kafka):
    """A broker with its listeners for users; its certificates are in `certificates`, a directory that exists."""

    def __init__(self, certificates: Path, *, report: Echo = echo) -> None:
        self._certificates = certificates
        self._authority = trustme.CA()
        self.authority = certificates / "ca.pem"
        self._authority.cert_pem.write_to_path(str(self.authority))
        certificate, key = self.certificate(places.HOST)
        store = certificates / "broker.pem"
        store.write_bytes(key.read_bytes() + certificate.read_bytes())
        port, password_port, certificate_port, controller = (places.free_port() for _ in range(4))
        self.password_bootstrap = f"{places.HOST}:{password_port}"
        """SASL_SSL, with PLAIN or SCRAM-SHA-512."""
        self.certificate_bootstrap = f"{places.HOST}:{certificate_port}"
        """SSL, with a certificate of the client's own."""
        login = "org.apache.kafka.common.security"
        settings = {
            "listeners": (
                f"PLAINTEXT://{places.HOST}:{port},CONTROLLER://{places.HOST}:{controller},"
                f"PASSWORD://{self.password_bootstrap},CERTIFICATE://{self.certificate_bootstrap}"
            ),
            "listener.security.protocol.map": (
                "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORD:SASL_SSL,CERTIFICATE:SSL"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority),
            "listener.name.certificate.ssl.client.auth": "required",
            "listener.name.certificate.ssl.principal.mapping.rules": "RULE:^CN=([^,]*).*$/$1/",
            "listener.name.password.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "listener.name.password.scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
            "listener.name.password.plain.sasl.jaas.config": (
                f'{login}.plain.PlainLoginModule required user_plain="plain-password";'
            ),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # clients of the plain listener, the broker itself among them
        }
        quorum = Quorum(cluster_id(), (controller,))
        super().__init__(port=port, settings=settings, quorum=lambda: quorum, report=report)

    def certificate(self, name: str) -> tuple[Path, Path]:
        """Make a certificate for a host, or for the user of that name; return the files of it and of its key."""
        made = self._authority.issue_cert(name, common_name=name)
        certificate, key = self._certificates / f"{name}.pem", self._certificates / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        # Kafka reads keys in this form only.
        private = load_pem_private_key(made.private_key_pem.bytes(), None)
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return certificate, key

    def admin(self) -> AdminClient:
        """Make a client that may do everything."""
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def user(self, name: str, password: str) -> None:
        """Make a user who authenticates by SCRAM."""
        told = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
        made = UserScramCredentialUpsertion(name, told, password.encode())
        admin = self.admin()  # with its end, what it was asked would end too
        admin.alter_user_scram_credentials([made])[name].result(ANSWER_SECONDS)

    def grant(self, user: str, grants: Iterable[Grant]) -> Self:
        """Give rights to a user. One that is named twice is given once: a service may consume what it publishes."""
        admin = self.admin()
        for answer in admin.create_acls([_binding(user, grant) for grant in dict.fromkeys(grants)]).values():
            answer.result(ANSWER_SECONDS)
        return self

    def revoke(self, user: str, grant: Grant) -> None:
        """Take a right from a user."""
        binding = _binding(user, grant)
        chosen = AclBindingFilter(
            binding.restype,
            binding.name,
            binding.resource_pattern_type,
            binding.principal,
            binding.host,
            binding.operation,
            binding.permission_type,
        )
        admin = self.admin()
        taken = admin.delete_acls([chosen])[chosen].result(ANSWER_SECONDS)
        if len(taken) != 1:
            raise ValueError(f"{user} has no right {grant}")


def _binding(user: str, grant: Grant) -> AclBinding:
    prefixed = grant.name != "*" and grant.name.endswith("*")
    return AclBinding(
        ResourceType[grant.resource.upper()],
        grant.name.removesuffix("*") if prefixed else grant.name,
        ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        AclOperation[grant.operation.upper()],
        AclPermissionType.ALLOW,
    )
