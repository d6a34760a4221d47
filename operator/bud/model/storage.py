"""Which volume keeps the weights: its class, access modes and size. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bud.kube.quantity import canonical, parse
from bud.kube.seen import Claim, Seen, StorageClass
from bud.model.view import View

REQUESTED = "bud.studio/requested-size"
"""Annotation on a claim: the size that was asked for, whatever came of it."""

SHARING = (
    "nfs.csi.k8s.io",
    "nfs-subdir-external-provisioner",
    "smb.csi.k8s.io",
    "cephfs.csi.ceph.com",
    "csi.juicefs.com",
    "efs.csi.aws.com",
    "fsx.csi.aws.com",
    "fsx.openzfs.csi.aws.com",
    "file.csi.azure.com",
    "azurelustre.csi.azure.com",
    "filestore.csi.storage.gke.io",
    "lustre.csi.storage.gke.io",
    "parallelstore.csi.storage.gke.io",
)
"""Provisioners whose every volume is a file system that many nodes write. Others may share some volumes, or share them
at a price, so there it is for a person to ask (spec.storage.accessModes)."""


def default_class(classes: Sequence[Seen]) -> Seen | None:
    """The class of claims that name none: of several marked as default, the newest, as Kubernetes chooses."""
    marked = sorted((seen for seen in classes if seen.data.default), key=lambda seen: seen.name)
    return max(marked, key=lambda seen: str(seen.data.created), default=None)


def storage_class(view: View) -> StorageClass | None:
    """The class of the claim, if it is known."""
    name = _class_name(view)
    seen = next((seen for seen in view.classes or () if seen.name == name), None)
    if name is None:
        seen = default_class(view.classes or ())
    return seen.data if seen is not None else None


def class_missing(view: View) -> tuple[str, str] | None:
    """Reason and remedy when the claim waits for a StorageClass that is not there."""
    if view.classes is None or not view.makes_claim or _claim(view).phase == "Bound":
        return None
    name, have = _class_name(view), ", ".join(sorted(seen.name for seen in view.classes)) or "none"
    if name is None and default_class(view.classes) is None:
        return "NoDefaultStorageClass", (
            f"the cluster has no default StorageClass (classes: {have}); name one in spec.storage.storageClassName, or "
            f"mark one as default"
        )
    if name and all(seen.name != name for seen in view.classes):
        return "StorageClassNotFound", (
            f"no StorageClass {name} (classes: {have}), and no free volume of that class; create it or correct "
            "spec.storage.storageClassName"
        )
    return None


def lost(view: View) -> tuple[str, str] | None:
    """Reason and remedy when the volume behind the claim is gone for good."""
    if view.volume is None or view.volume.data.phase != "Lost":
        return None
    if view.makes_claim:
        remedy = f"stop what serves them (spec.stopped), then delete claim {view.id} to have them fetched anew"
    else:
        remedy = f"restore the volume, or make claim {view.claim_name} anew"
    return "ClaimLost", f"claim {view.claim_name} lost its volume, and the weights with it: {remedy}"


def access_modes(view: View) -> list[str]:
    """Those asked for; else what the class is known to offer. Those of a claim that exists cannot be changed."""
    if view.claim is not None and view.claim.data.access_modes:
        return list(view.claim.data.access_modes)
    if view.spec.storage.access_modes:
        return list(view.spec.storage.access_modes)
    known = storage_class(view)
    return ["ReadWriteMany" if known is not None and shares(known.provisioner) else "ReadWriteOnce"]


def shares(provisioner: str) -> bool:
    """Whether every volume of a provisioner can be written from many nodes.

    Some are deployed under a prefix of the operator's that runs them, as in `rook-ceph.cephfs.csi.ceph.com`.
    """
    return any(provisioner == name or provisioner.endswith((f".{name}", f"/{name}")) for name in SHARING)


def requested_size(view: View) -> str:
    """The largest size that a Model which wants the copy asks for, as a canonical quantity."""
    sizes = [view.default_size if owner.size is None else owner.size for owner in view.owners]
    return canonical(max(sizes, key=parse))


def size(view: View) -> str:
    """Size of the claim: as asked for; one that exists grows where that is possible, and never shrinks."""
    grows = _wants_more(view) and not _cannot_grow(view) and not view.deleting
    if view.claim is None or grows:
        return requested_size(view)
    return str(view.claim.data.size)


def must_be_replaced(view: View) -> bool:
    """Whether a claim that was never bound was asked for in another size: it cannot be changed, and holds nothing."""
    asked = _claim(view).annotations.get(REQUESTED)
    if view.result is not None or _claim(view).phase != "Pending" or asked is None:
        return False
    return parse(asked) != parse(requested_size(view))


def growth(view: View) -> str:
    """What a person should know of a claim that is to be larger than it is; "" as a rule."""
    if view.claim is None or _claim(view).phase != "Bound":
        return ""
    if _wants_more(view) and (why := _cannot_grow(view)):
        return (
            f"the volume stays at {_claim(view).size}, not {requested_size(view)}: {why}. To have the weights fetched "
            f"anew into a larger one, stop what serves them (spec.stopped), then delete claim {view.id}"
        )
    if not has_grown(_claim(view)):
        return f"the volume is being grown to {_claim(view).size}"
    return ""


def has_grown(claim: Claim) -> bool:
    """Whether the volume is as large as its claim asks, or will be as soon as a pod mounts it."""
    return not claim.capacity or claim.awaits_mount or parse(claim.capacity) >= parse(claim.size)


def _wants_more(view: View) -> bool:
    claim = _claim(view)
    return claim.phase == "Bound" and parse(requested_size(view)) > parse(claim.size)


def _cannot_grow(view: View) -> str:
    """Why not; "" when it can, or when only trying tells, since StorageClasses are not read."""
    if view.classes is None:
        return ""
    known, name = storage_class(view), _class_name(view)
    if not name:
        return "it has no StorageClass, which alone could expand it"
    if known is None:
        return f"StorageClass {name} is not there any more"
    return "" if known.expands else f"StorageClass {name} does not allow expansion"


def _class_name(view: View) -> str | None:
    if view.claim is not None:
        return _claim(view).storage_class
    return view.spec.storage.storage_class_name


def _claim(view: View) -> Claim:
    claim: Claim = view.claim.data if view.claim is not None else Claim("", None, "", {})
    return claim
