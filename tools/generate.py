"""Write what is generated: `python -m tools.generate crds manifests`.

crds         crds/ and the chart's copy of it, from the pydantic models
manifests    manifests/operator.yaml, from the chart, by `helm template`, and what Argo CD is told of our kinds
"""

import argparse
from pathlib import Path

from bud.api import GROUP, KINDS
from bud.api.crd import crd, to_yaml
from tests.cluster import tools
from tests.cluster.isolation import run

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts/bud-operator"
CRD_FOLDERS = (ROOT / "crds", CHART / "files/crds")
ARGOCD = ROOT / "manifests/argocd"
NAMESPACE = "bud-system"
_HELM_ONLY = ("app.kubernetes.io/managed-by", "helm.sh/chart")


def crds() -> dict[Path, str]:
    """Text of every file of CustomResourceDefinitions."""
    return {folder / f"{kind.plural}.yaml": to_yaml(crd(kind)) for folder in CRD_FOLDERS for kind in KINDS}


def manifests() -> dict[Path, str]:
    """Text of every file in manifests/ that is made from something else."""
    return {ROOT / "manifests/operator.yaml": _operator(), ARGOCD / "argocd-cm.yaml": _argocd()}


def _operator() -> str:
    """The chart with its defaults, less what only Helm has a use for."""
    options = (
        f"--namespace={NAMESPACE}",
        f"--kube-version={tools.KUBERNETES}",
        "--set=crds.enabled=false",
        "--no-hooks",
    )
    rendered = run(str(tools.path("helm")), "template", "bud-operator", str(CHART), *options)
    kept = [line for line in rendered.splitlines() if line.strip().partition(":")[0] not in _HELM_ONLY]
    return "\n".join(["# By `make manifests`, from the chart.", *kept, ""])


def _argocd() -> str:
    """The health check of each kind that has a status, as a patch of Argo CD's own ConfigMap."""
    script = "".join(f"    {line}\n" for line in (ARGOCD / "health.lua").read_text().splitlines())
    kinds = [kind.kind for kind in KINDS if kind.status is not None]
    head = (
        "# By `make manifests`, from health.lua. It merges into the ConfigMap of Argo CD's own:\n"
        "#   kubectl patch configmap argocd-cm --namespace argocd --patch-file manifests/argocd/argocd-cm.yaml\n"
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: argocd-cm\ndata:\n"
    )
    return head + "".join(f"  resource.customizations.health.{GROUP}_{kind}: |\n{script}" for kind in kinds)


def main() -> None:
    """Write the files and say which ones changed."""
    parser = argparse.ArgumentParser(prog="python -m tools.generate", description=__doc__)
    parser.add_argument("what", nargs="+", choices=("crds", "manifests"))
    wanted = parser.parse_args().what
    # The manifests are made from a chart that holds the definitions.
    for name, make in (("crds", crds), ("manifests", manifests)):
        for path, text in (make() if name in wanted else {}).items():
            if not path.exists() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
