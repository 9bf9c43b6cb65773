"""What a source says that no path of the package may do: unpickle, run text, start a shell, reach the network, …"""

from __future__ import annotations

import ast

# fmt: off
UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal",
              "jsonpickle", "yaml"}
NETWORK = {"socket", "ssl", "urllib", "urllib3", "http", "ftplib", "smtplib", "requests", "httpx", "aiohttp", "xmlrpc",
           "webbrowser"}
RUNNING = {"pty", "commands", "code", "codeop", "ctypes", "cffi", "runpy"}
CALLS = {"eval", "exec", "compile", "__import__", "tempfile.mktemp", "os.tempnam", "os.tmpnam", "torch.hub.load",
         "torch.jit.load", "torch.package.PackageImporter", "torch.ops.load_library", "pd.read_pickle",
         "pandas.read_pickle"}
SYSTEM = ("os.system", "os.popen", "os.exec", "os.spawn", "os.posix_spawn", "os.startfile", "os.fork", "subprocess.",
          "asyncio.create_subprocess")
PREDICTABLE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108
# fmt: on


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def _called(node: ast.Call, names: dict[str, str]) -> list[str]:
    """What is wrong about one call; ``names``: what was imported under which name."""
    name = ast.unparse(node.func)
    first, dot, rest = name.partition(".")
    name = names.get(first, first) + dot + rest
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    found = []
    if name in CALLS or name.startswith(SYSTEM):
        found.append(name)
    if name == "torch.load" and keywords.get("weights_only") != "True":
        found.append("torch.load")
    if name in {"np.load", "numpy.load"} and keywords.get("allow_pickle") != "False":
        found.append("np.load without allow_pickle=False")
    if keywords.get("allow_pickle", "False") != "False":
        found.append("allow_pickle")
    if keywords.get("shell", "False") != "False":
        found.append("shell")
    if name in {"importlib.import_module", "importlib.util.spec_from_file_location"} and not (
        node.args and isinstance(node.args[0], ast.Constant)
    ):
        found.append("an import by a name that is not written here")
    return found


def dangerous(source: str) -> list[str]:
    """What is found, in the order of the source; empty where there is nothing."""
    found: list[str] = []
    tree = ast.parse(source)
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update({alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names})
        if isinstance(node, ast.Import):
            names.update({alias.asname: alias.name for alias in node.names if alias.asname})
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        found += [name for name in _modules(node) if name.split(".")[0] in UNPICKLING | NETWORK | RUNNING]
        if isinstance(node, ast.Call):
            found += _called(node, names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            found += [place for place in PREDICTABLE if f"{node.value}/".startswith(f"{place}/")]
    return found
