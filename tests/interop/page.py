"""Uses the page of `pimoe serve` in a headless browser, over the DevTools protocol; started by page.sh."""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "serve"))
from attack import KEY, served, trained

LAYERS, EXPERTS, CHOICES, TOKENS = 2, 4, 2, 12


class Browser:
    """Chromium on a pipe: messages of JSON with a NUL behind each."""

    def __init__(self, program, folder):
        theirs_in, self.out = os.pipe()
        self.into, theirs_out = os.pipe()
        self.process = subprocess.Popen(
            ["sh", "-c", f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}', program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe",
             f"--user-data-dir={folder}/browser", "about:blank"], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        self.rest, self.last, self.events = b"", 0, []
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]

    def call(self, method, parameters=None, session=None):
        self.last += 1
        message = {"id": self.last, "method": method, "params": parameters or {}}
        if session:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                read = os.read(self.into, 1 << 16)
                if not read:
                    sys.exit("FAILED: the browser ended")
                self.rest += read
            line, self.rest = self.rest.split(b"\0", 1)
            heard = json.loads(line)
            if heard.get("id") == self.last:
                if "error" in heard:
                    sys.exit(f"FAILED: {method}: {heard['error']}")
                return heard["result"]
            self.events.append(heard)

    def page(self, method, parameters=None):
        return self.call(method, parameters, self.session)

    def value(self, script):
        result = self.page("Runtime.evaluate", {"expression": script, "awaitPromise": True, "returnByValue": True})
        if "exceptionDetails" in result:
            sys.exit(f"FAILED: {script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, script):
        until = time.monotonic() + 60
        while not self.value(script):
            if time.monotonic() > until:
                sys.exit(f"FAILED: never {script}: {self.value('document.body.innerText')}")
            time.sleep(0.1)


def check(condition, message):
    if not condition:
        sys.exit(f"FAILED: {message}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pimoe", required=True)
    parser.add_argument("--browser", required=True)
    parser.add_argument("--picture", help="also writes what the page looks like in the end: FILE.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pimoe-page-", ignore_cleanup_errors=True) as name:
        folder = pathlib.Path(name)
        pimoe = os.path.abspath(options.pimoe)
        server, port = served(pimoe, folder, trained(pimoe, folder))
        browser = Browser(options.browser, folder)
        try:
            for domain in ("Page", "Runtime", "Log", "Network"):
                browser.page(f"{domain}.enable")
            browser.page("Page.navigate", {"url": f"http://127.0.0.1:{port}/"})
            browser.wait("document.readyState === 'complete' && document.getElementById('go') !== null")
            browser.value("document.getElementById('prompt').value = 'the 3 cats'; document.getElementById('go').click()")
            browser.wait("!document.getElementById('trouble').hidden")
            check("401" in browser.value("document.getElementById('trouble').textContent"), "without a key the page must say 401")
            browser.events.clear()
            browser.value(f"document.getElementById('key').value = '{KEY}'; document.getElementById('tokens').value = '{TOKENS}'; document.getElementById('temperature').value = '0'; document.getElementById('go').click()")
            browser.wait("document.getElementById('speed').textContent !== ''")
            check(browser.value("document.getElementById('trouble').hidden"), "the page shows trouble")
            check(browser.value("document.getElementById('answer').textContent.length") > 0, "no text")
            check(browser.value("document.getElementById('model').textContent") == "run", "no model")
            tokens = browser.value("document.querySelectorAll('#answer span').length")
            check(tokens >= TOKENS, f"{tokens} tokens")
            check(browser.value("document.querySelectorAll('#grid .layer').length") == LAYERS, "a row for each layer")
            check(browser.value("document.querySelectorAll('#grid i').length") == LAYERS * EXPERTS, "a square for each expert")
            check(browser.value("document.querySelectorAll('#grid i.lit').length") == LAYERS * CHOICES, "the last token's experts are lit")
            browser.value("document.querySelector('#answer span').dispatchEvent(new Event('pointerenter'))")
            check(browser.value("document.querySelector('#answer span').classList.contains('chosen')"), "pointing at a token shows its experts")
            check(browser.value("document.getElementById('kind-label').hidden"), "without a chat template there is no choice")
            # Chromium at times calls a stream that was read to its end "canceled"; that nothing of it is missing was seen above.
            wrong = [each for each in browser.events if each["method"] in ("Runtime.exceptionThrown", "Log.entryAdded", "Network.loadingFailed")
                     and not each["params"].get("canceled")]
            check(not wrong, f"the browser complains: {wrong}")
            if options.picture:
                import base64
                pathlib.Path(options.picture).write_bytes(base64.b64decode(browser.page("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]))
            print(f"page: {tokens} tokens drawn, {LAYERS} layers of {EXPERTS} experts, {LAYERS * CHOICES} lit; no script, style or request was blocked")
        finally:
            browser.process.kill()
            browser.process.wait()
            server.terminate()
            server.wait(60)


if __name__ == "__main__":
    main()
