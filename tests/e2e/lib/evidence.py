"""What is collected when a test fails: everything one would ask for next, in one folder."""

import concurrent.futures
import shutil

from . import kube, settings


def collect(test, namespaces):
    folder = settings.EVIDENCE / test
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    def save(name, *args):
        done = kube.kubectl(*args, "--request-timeout=20s", check=False)
        (folder / name).write_text(done.stdout + done.stderr)

    jobs = [("nodes.txt", "describe", "nodes"), ("everywhere.txt", "get", "pods", "-A", "-o", "wide")]
    for ns in namespaces:
        jobs += [
            (f"{ns}.objects.yaml", "get", "caches,cachebackups,cacheregions,statefulsets,pods,services,configmaps,jobs,pdb,pvc,endpointslices", "-n", ns, "-o", "yaml"),
            (f"{ns}.describe.txt", "describe", "caches,cachebackups,cacheregions,pods", "-n", ns),
            (f"{ns}.events.txt", "get", "events", "-n", ns, "--sort-by=.lastTimestamp", "-o", "wide"),
        ]  # fmt: skip
        for pod in kube.get("pods", ns=ns):
            name = pod["metadata"]["name"]
            jobs.append((f"{ns}.{name}.log", "logs", "-n", ns, name, "--all-containers", "--tail=5000"))
            if any(c["restartCount"] for c in pod["status"].get("containerStatuses", [])):
                jobs.append((f"{ns}.{name}.previous.log", "logs", "-n", ns, name, "--all-containers", "--previous", "--tail=5000"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda job: save(*job), jobs))
    return folder
