"""The dashboard in a browser: a real gateway, sessions of the simulator, people who sign in. Each promise is looked at by
its own function; what broke is said, the rest goes on. Ends with one line of JSON and exit code 1 if a promise broke.
Started by `cargo xtask browser`, which brings the programs."""

import argparse
import base64
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request

from cdp import PATIENCE, Broken, Browser

PASSWORD = "correct horse"
# Of the overview with many sessions. Generous: builds run on machines that do other things, without a graphics card.
LONG_TASK_MS_MAX = 1_000
FRAME_P95_MS_MAX = 250
# Required of the first page, over the loopback.
FIRST_LOAD_MS_MAX = 1_000
PHONE = (375, 812)
# One that stands for ever, and some that come and go.
ALARMS = "alarm_every_ms=100,alarms=Boiler1.Counter:::3;Boiler1.Pressure.Sine:2:20:80:98;Tank3.Level.Ramp:::70:95"
# Who comes to the sign-in can type at once.
FOCUSED = "document.readyState === 'complete' && document.activeElement?.name === 'name'"


class Gateway:
    def __init__(self, program, folder, flags=(), backend="rate=50", level="warn"):
        self.program, self.folder = program, pathlib.Path(folder)
        self.flags, self.backend, self.level = list(flags), backend, level
        self.data = self.folder / "data"
        self.plugins = self.folder / "plugins"
        self.folder.mkdir(mode=0o700)
        self.plugins.mkdir(mode=0o700)
        self.addresses = None
        self.start()

    def start(self):
        announced = self.data / "addresses.json"
        announced.unlink(missing_ok=True)
        # After a kill it comes back where its pages look for it.
        listen = self.addresses or {"grpc": "127.0.0.1:0", "http": "127.0.0.1:0"}
        command = [self.program, "serve", "--data", self.data, "--plugins", self.plugins, "--listen", listen["grpc"]]
        command += ["--http", listen["http"], "--log-level", self.level, "--backend", f"sim=sim:{self.backend}", *self.flags]
        log = open(self.folder / "gateway.log", "ab")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=plain_environment()
        )
        deadline = time.monotonic() + 120
        while not announced.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Broken(f"the gateway does not start: {(self.folder / 'gateway.log').read_text()}")
            time.sleep(0.05)
        self.addresses = json.loads(announced.read_text())
        self.url = f"http://{self.addresses['http']}"

    def run(self, *words):
        command = [self.program, *words, "--data", self.data]
        done = subprocess.run(command, capture_output=True, text=True, env=plain_environment(), timeout=120)
        if done.returncode != 0:
            raise Broken(f"{' '.join(map(str, words))}: {done.stderr}")
        return done.stdout

    def json(self, *words):
        return json.loads(self.run(*words, "--json"))

    def add(self, name, role, *groups):
        file = self.folder / "password"
        file.write_text(PASSWORD + "\n")
        words = [word for group in groups for word in ("--group", group)]
        self.run("user", "add", name, "--role", role, "--password-file", file, *words)

    def open(self, tag, name="", items=("Area1.Pump1.Sine", "Area1.Pump2.Sine")):
        session = self.json("client", "open", "--tag", tag, "--name", name or tag)["session_id"]
        if items:
            self.run("client", "advise", session, *items)
        return session

    def head(self, session):
        rows = self.json("session", "list")
        rows = rows.get("sessions", rows) if isinstance(rows, dict) else rows
        return next(row["head"] for row in rows if row["session_id"] == session)

    def generation(self):
        return self.json("policy", "list")["generation"]

    def place(self, name, text):
        draft = self.folder / "draft"
        draft.write_text(text)
        draft.chmod(0o644)
        draft.rename(self.plugins / name)

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def end(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Job:
    def __init__(self, args):
        self.args = args
        self.broken, self.kept, self.figures = [], [], {}
        self.pages = []

    def promise(self, name, kept, detail=""):
        print(f"{'kept  ' if kept else 'BROKEN'} {name}{': ' + str(detail) if detail else ''}", flush=True)
        (self.kept if kept else self.broken).append(name)

    def page(self, person, *size):
        page = self.browser.page(person, *size)
        self.pages.append(page)
        return page

    def part(self, look):
        """One promise after another: a wait in vain breaks its own."""
        try:
            look()
        except Exception as error:
            if not isinstance(error, Broken):
                traceback.print_exc()
            self.promise(look.__name__, False, error)

    def sign_in(self, page, name):
        page.go(self.gateway.url + "/sign-in")
        page.run(f"document.querySelector('[name=name]').value = {json.dumps(name)}")
        page.run(f"document.querySelector('[name=password]').value = {json.dumps(PASSWORD)}")
        before = page.events["Page.loadEventFired"]
        page.run("document.querySelector('form').requestSubmit()")
        page.until(lambda: page.events["Page.loadEventFired"] > before, "the page behind the sign-in")
        if page.run("location.pathname") != "/":
            raise Broken(f"{name} is not signed in: {page.run('document.body.innerText')}")

    # --- the promises ---

    def run(self):
        self.gateway = Gateway(self.args.tidegate, self.folder / "one", backend=f"rate=50,{ALARMS}")
        self.browser = Browser(self.args.chromium)
        gateway = self.gateway
        gateway.add("ada", "Admin")
        gateway.add("ben", "Viewer", "crew")
        gateway.run("user", "grant", "crew", "line-1")
        self.mine = gateway.open("line-1", "Press 1")
        self.other = gateway.open("line-2", "Press 2")
        self.ada, self.ben = self.browser.person(), self.browser.person()
        self.part(self.keyboard_alone_signs_in)
        self.part(self.roles_see_what_is_theirs)
        self.part(self.the_first_load_is_small_and_quick)
        self.part(self.events_come_without_a_reload)
        self.part(self.an_administrator_acknowledges_by_keyboard)
        self.part(self.many_windows_leave_connections_for_links_and_forms)
        self.part(self.a_shadow_is_promoted)
        self.part(self.every_page_is_accessible)
        self.part(self.every_page_fits_a_phone)
        self.part(self.pages_are_readable_with_scripts_off)
        if self.args.screenshots:
            self.part(self.pictures)
        self.part(self.a_swap_takes_a_session_away_on_the_open_page)
        self.part(self.another_build_asks_for_a_reload)
        self.part(self.a_gateway_that_is_killed_comes_back)
        self.part(self.no_page_broke_its_content_policy)
        gateway.end()
        self.part(self.a_part_that_fails_is_seen_and_its_end_too)
        self.part(self.many_sessions_do_not_stutter)

    def keyboard_alone_signs_in(self):
        page = self.page(self.ada)
        page.go(self.gateway.url + "/policies")
        page.wait(f"location.pathname === '/sign-in' && {FOCUSED}", "the sign-in")
        page.type("ada")
        page.press("Tab")
        page.type("a wrong password")
        page.press("Enter")
        page.wait(f"document.querySelector('[role=alert]')?.innerText.includes('wrong') && {FOCUSED}", "the refusal")
        page.type("ada")
        page.press("Tab")
        page.type(PASSWORD)
        page.press("Enter")
        # With the keyboard: pin, which is undone below.
        page.wait("location.pathname === '/policies' && document.readyState === 'complete'", "the page that was asked for")
        page.tab_to("e.innerText === 'Pin this generation'", "the button that pins")
        page.press("Enter")
        page.wait("document.body.innerText.includes('pinned: changes')", "the pin")
        page.tab_to("e.innerText.startsWith('Take changes')", "the button that unpins")
        page.press("Enter")
        page.wait("!document.body.innerText.includes('pinned: changes')", "the pin to be gone")
        # A change that wants confirmation and a reason.
        page.go(f"{self.gateway.url}/sessions/{self.other}")
        page.tab_to("e.innerText?.startsWith('End this session')", "the way to the end")
        page.press("Enter")
        page.wait("location.pathname.endsWith('/end') && document.readyState === 'complete'", "the form")
        page.tab_to("e.name === 'reason'", "the reason")
        page.type("moved elsewhere")
        page.press("Tab")
        page.press("Enter")
        page.wait("location.pathname === '/'", "the first page")
        page.go(self.gateway.url + "/audit")
        audit = page.run("document.body.innerText")
        outline = page.run(
            "(() => { document.querySelector('nav a').focus(); return getComputedStyle(document.activeElement).outlineStyle })()"
        )
        self.promise("keyboard_alone_signs_in", "session.end" in audit and "policy.pin" in audit and outline is not None)
        self.other = self.gateway.open("line-2", "Press 2")
        page.close()

    def roles_see_what_is_theirs(self):
        pages = {"ada": self.page(self.ada), "ben": self.page(self.ben)}
        links = {}
        for name, page in pages.items():
            self.sign_in(page, name)
            page.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
            links[name] = page.run("[...document.querySelectorAll('nav a')].map(a => a.innerText)")
        rows = pages["ben"].run("document.getElementById('rows').innerText")
        both = pages["ada"].run("document.getElementById('rows').innerText")
        forbidden = []
        for path in ("/keys", "/audit", "/decisions", "/shadow", "/configuration", f"/sessions/{self.other}", f"/alarms/{self.other}"):
            pages["ben"].go(self.gateway.url + path)
            forbidden.append(pages["ben"].run("performance.getEntriesByType('navigation')[0].responseStatus"))
        kept = "Audit" in links["ada"] and "Configuration" in links["ada"] and "Audit" not in links["ben"]
        kept = kept and "Press 1" in rows and "Press 2" not in rows and "Press 2" in both and set(forbidden) == {403}
        self.promise("roles_see_what_is_theirs", kept, "" if kept else f"{links} {rows!r} {forbidden}")
        for page in pages.values():
            page.close()

    def the_first_load_is_small_and_quick(self):
        page, times = self.page(self.ada), []
        page.call("Network.setCacheDisabled", cacheDisabled=True)
        # The best of five: what else the machine does is no matter of the page's.
        for _ in range(5):
            page.go(self.gateway.url + "/")
            page.wait("performance.getEntriesByType('navigation')[0].loadEventEnd > 0", "the end of the load")
            figures = page.run(
                """(() => { const of = performance.getEntriesByType('navigation')[0];
                const rest = performance.getEntriesByType('resource').filter(one => /assets/.test(one.name));
                const bytes = [of, ...rest].reduce((sum, one) => sum + one.transferSize, 0);
                return { bytes, requests: 1 + rest.length, load_ms: Math.round(of.loadEventEnd) }; })()"""
            )
            paint = page.wait("performance.getEntriesByName('first-contentful-paint')[0]?.startTime", "the first paint")
            times.append((figures["load_ms"], round(paint)))
        figures["load_ms"], figures["first_paint_ms"] = min(times)
        figures["load_ms_all"] = [load for load, _ in times]
        self.figures["first_load"] = figures
        self.promise("the_first_load_is_small_and_quick", figures["load_ms"] < FIRST_LOAD_MS_MAX, figures)
        page.close()

    def events_come_without_a_reload(self):
        page = self.page(self.ada)
        page.go(f"{self.gateway.url}/sessions/{self.mine}")
        newest = "Number(document.querySelector('#events td.number')?.innerText ?? 0)"
        loads, seen = page.events["Page.loadEventFired"], [page.run(newest)]
        for _ in range(3):
            seen.append(page.wait(f"{newest} > {seen[-1]} && {newest}", "a newer event"))
        tag = page.run("document.getElementById('events').innerText.includes('Area1.Pump1.Sine')")
        kept = tag and page.events["Page.loadEventFired"] == loads
        self.promise("events_come_without_a_reload", kept, f"sequences {seen}")
        page.close()

    def many_windows_leave_connections_for_links_and_forms(self):
        # All of one browser and all seen: six connections to one host are all that it has.
        state = "document.getElementById('connection')?.dataset.state"
        pages = []
        for _ in range(8):
            page = self.page(self.ada)
            page.go(self.gateway.url + "/alarms")
            page.wait(f"{state} === 'active'", "the live connection of a new window")
            pages.append(page)
        for page in pages[:5]:
            page.wait(f"{state} === 'paused'", "the older windows to make room")
        live = [page.run(state) for page in pages[5:]]
        first = pages[0]
        first.go(self.gateway.url + "/policies")
        first.run("document.querySelector('form[action=\"/policies/reload\"]').requestSubmit()")
        first.wait("location.pathname === '/policies' && document.readyState === 'complete'", "a form to be sent")
        first.go(self.gateway.url + "/")
        first.wait(f"{state} === 'active'", "the window that is used to be live")
        # One that is used goes on; one that is closed gives its place back.
        pages[1].press("Tab")
        pages[1].wait(f"{state} === 'active'", "the window that is used to go on")
        for page in pages[2:]:
            page.close()
        alone = [page.run(state) for page in (first, pages[1])]
        kept = live == ["active"] * 3 and alone == ["active"] * 2
        self.promise("many_windows_leave_connections_for_links_and_forms", kept, "" if kept else f"{live} {alone}")
        first.close()
        pages[1].close()

    def an_administrator_acknowledges_by_keyboard(self):
        watching, page, ben = self.page(self.ben), self.page(self.ada), self.page(self.ben)
        watching.go(self.gateway.url + "/alarms")
        watching.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
        watching.wait("document.getElementById('rows').innerText.includes('Boiler1.Counter')", "the alarm")
        alone = watching.run("!document.getElementById('rows').innerText.includes('Press 2')")
        page.go(f"{self.gateway.url}/alarms/{self.mine}")
        page.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
        page.tab_to("e.tagName === 'A' && e.innerText === 'Boiler1.Counter'", "the alarm")
        # Rows that are made anew under the keyboard do not take its place away.
        page.run(
            """(() => { window.made = 0; new MutationObserver(() => window.made++)
            .observe(document.getElementById('rows'), { childList: true, subtree: true }); })()"""
        )
        page.wait("window.made > 1", "rows that change")
        stays = page.run("document.activeElement?.innerText === 'Boiler1.Counter'")
        page.press("Enter")
        page.wait(f"location.pathname.startsWith('/alarms/{self.mine}/') && document.readyState === 'complete'", "the alarm's page")
        self.alarm = page.run("location.pathname")
        ben.go(self.gateway.url + self.alarm)
        looks = ben.run("document.body.innerText.includes('Boiler1.Counter') && !document.querySelector('main form')")
        page.tab_to("e.tagName === 'SUMMARY'", "the confirmation")
        page.press("Enter")
        page.wait("document.querySelector('details').open", "the form")
        page.tab_to("e.name === 'comment'", "the comment")
        page.type("let it count")
        page.press("Tab")
        page.press("Enter")
        page.wait(f"location.pathname === '/alarms/{self.mine}'", "the alarms after it")
        watching.wait("document.getElementById('rows').innerText.includes('dashboard:ada: let it count')", "the open page to tell")
        kept = alone and stays and looks
        self.promise("an_administrator_acknowledges_by_keyboard", kept, "" if kept else f"{alone} {stays} {looks}")
        for one in (watching, page, ben):
            one.close()

    def a_shadow_is_promoted(self):
        gateway, page = self.gateway, self.page(self.ada)
        page.go(gateway.url + "/shadow")
        page.run("document.querySelector('details').open = true")
        page.run("document.querySelector('[name=policy]').value = 'dashboard-tags'")
        page.run("""document.querySelector('[name=settings]').value = 'common = ["line-9"]\\n'""")
        page.run("document.querySelector('[name=settings]').form.requestSubmit()")
        page.wait("document.querySelector('main').innerText.includes('being asked')", "the shadow to begin")
        # Questions for it: each page of somebody asks who sees what.
        for _ in range(3):
            page.go(gateway.url + "/")
        page.go(gateway.url + "/shadow")
        page.wait("document.body.innerText.includes('dashboard-tags.toml')", "the shadow")
        asked = page.run("document.querySelector('main').innerText")
        page.run("document.querySelectorAll('details')[0].open = true")
        page.run("document.querySelector('[name=least_answers]').value = '1000000'")
        page.run("document.querySelector('[name=least_answers]').form.requestSubmit()")
        page.wait("document.body.innerText.includes('policy.unproven')", "the refusal of a promotion")
        page.go(gateway.url + "/shadow")
        before = gateway.generation()
        page.run("document.querySelectorAll('details')[0].open = true")
        page.run("document.querySelector('[name=least_answers]').value = '1'")
        page.run("document.querySelector('[name=most_percent]').value = '100'")
        page.run("document.querySelector('[name=least_answers]').form.requestSubmit()")
        page.wait("location.pathname === '/policies'", "the policies after the promotion")
        promoted = gateway.generation() > before and (gateway.plugins / "dashboard-tags.toml").exists()
        page.go(gateway.url + "/decisions?policy=dashboard-tags")
        page.wait("document.querySelectorAll('tbody tr').length > 0", "decisions")
        page.run("document.querySelector('tbody a').click()")
        page.wait("document.body.innerText.includes('looked at the dashboard')", "the explanation")
        self.decision = page.run("location.pathname")
        page.go(gateway.url + "/configuration")
        shown = page.run("document.body.innerText")
        self.promise(
            "a_shadow_is_promoted",
            promoted and "answers would be others" in asked and "ldap_url" in shown and "first-key" not in shown,
            "" if promoted else asked,
        )
        page.close()

    def all_pages(self):
        return [
            "/",
            f"/sessions/{self.mine}",
            f"/sessions/{self.mine}/end",
            "/alarms",
            f"/alarms/{self.mine}",
            f"/alarms/{self.mine}/acknowledge",
            getattr(self, "alarm", "/alarms"),
            "/policies",
            "/shadow",
            "/decisions",
            getattr(self, "decision", "/decisions"),
            "/nodes",
            "/keys",
            "/configuration",
            "/audit",
            "/sessions/session-none",
        ]

    def every_page_is_accessible(self):
        axe = pathlib.Path(self.args.axe).read_text()
        page, nobody = self.page(self.ada), self.page(self.browser.person())
        found, checks = [], 0
        # The checker itself: it finds what is planted.
        page.go(self.gateway.url + "/audit")
        page.run("document.querySelector('main').insertAdjacentHTML('afterbegin', '<img src=\"data:,\"><button></button>')")
        page.run(axe + "; true")
        planted = page.run("axe.run(document).then(done => done.violations.map(one => one.id))")
        if not {"image-alt", "button-name"} <= set(planted):
            raise Broken(f"what was planted is not found: {planted}")
        for scheme in ("light", "dark"):
            for size in ((1280, 800, False), (*PHONE, True)):
                for of, path in [(nobody, "/sign-in"), *((page, path) for path in self.all_pages())]:
                    of.size(*size)
                    of.colours(scheme)
                    of.go(self.gateway.url + path)
                    of.run("document.querySelectorAll('details').forEach(one => one.open = true)")
                    of.run(axe + "; true")
                    result = of.run(
                        """axe.run(document, { resultTypes: ['violations'] }).then(done => done.violations.map(one =>
                        ({ id: one.id, impact: one.impact, nodes: one.nodes.slice(0, 3).map(node => node.html.slice(0, 160) + ' ' + (node.any[0]?.message ?? '')) })))"""
                    )
                    checks += 1
                    for one in result:
                        if one["impact"] in ("serious", "critical"):
                            found.append(f"{scheme} {size[0]} {path}: {one['id']} {one['nodes']}")
        self.figures["axe_checks"] = checks
        self.promise("every_page_is_accessible", not found, "\n".join(found) or f"{checks} pages")
        page.close()
        nobody.close()

    def every_page_fits_a_phone(self):
        page, wide = self.page(self.ada, *PHONE), []
        page.size(*PHONE, mobile=True)
        for path in self.all_pages():
            page.go(self.gateway.url + path)
            page.run("document.querySelectorAll('details').forEach(one => one.open = true)")
            width = page.run("document.scrollingElement.scrollWidth")
            if width > PHONE[0]:
                who = page.run(
                    f"[...document.querySelectorAll('main *, header *')].filter(e => e.getBoundingClientRect().right > {PHONE[0] + 1}"
                    " && !e.closest('.scroll')).slice(0, 4).map(e => e.outerHTML.slice(0, 120))"
                )
                wide.append(f"{path} is {width} wide: {who}")
        self.promise("every_page_fits_a_phone", not wide, "\n".join(wide))
        page.close()

    def pages_are_readable_with_scripts_off(self):
        page = self.page(self.ada)
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.go(f"{self.gateway.url}/sessions/{self.mine}")
        first, loads = page.html(), page.events["Page.loadEventFired"]
        page.until(lambda: page.events["Page.loadEventFired"] > loads, "the reload by itself")
        newest = lambda html: int(re.search(r'id="events"><tr><td class="number">(\d+)', html).group(1))
        later = page.html()
        page.go(self.gateway.url + "/alarms")
        readable = "Area1.Pump1.Sine" in first and newest(later) > newest(first) and "Boiler1.Counter" in page.html()
        # A change through forms alone; keys need no script.
        page.go(self.gateway.url + "/policies")
        page.call("Emulation.setScriptExecutionDisabled", value=True)
        page.tab_to("e.innerText === 'Look at the folder now'", "the button")
        loads = page.events["Page.loadEventFired"]
        page.press("Enter")
        page.until(lambda: page.events["Page.loadEventFired"] > loads, "the answer to the form")
        page.go(self.gateway.url + "/audit")
        changed = "policy.reload" in page.html()
        self.promise("pages_are_readable_with_scripts_off", readable and changed, f"read {readable}, changed {changed}")
        page.close()

    def a_swap_takes_a_session_away_on_the_open_page(self):
        gateway = self.gateway
        # From here on a rule, and no grant, shows line-1 to everybody.
        gateway.run("user", "grant", "crew", "line-1", "--remove")
        before = gateway.generation()
        gateway.place("dashboard-tags.toml", 'common = ["line-1"]\n')
        until(lambda: gateway.generation() > before, "the swap that shows line-1")
        row, page, alarms = self.page(self.ben), self.page(self.ben), self.page(self.ben)
        self.sign_in(row, "ben")
        alarms.go(gateway.url + "/alarms")
        alarms.wait("document.getElementById('rows').innerText.includes('Press 1')", "its alarms")
        alarms.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
        row.wait("document.getElementById('rows').innerText.includes('Press 1')", "the row")
        page.go(f"{gateway.url}/sessions/{self.mine}")
        page.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
        page.wait("document.querySelectorAll('#events td.number').length > 5", "events")
        # Every sequence that is ever put into the page from now on.
        page.run(
            """(() => { window.highest = 0; new MutationObserver(() => {
            for (const cell of document.querySelectorAll('#events tr > td.number:first-child'))
              window.highest = Math.max(window.highest, Number(cell.innerText)); })
            .observe(document.getElementById('events'), { childList: true, subtree: true }); })()"""
        )
        page.wait("window.highest > 0", "an event that is observed")
        before = gateway.generation()
        gateway.place("dashboard-tags.toml", 'common = ["line-2"]\n')
        until(lambda: gateway.generation() > before, "the swap that hides line-1")
        # The flip is over: nothing newer than this may ever be shown.
        head = gateway.head(self.mine)
        page.wait("document.getElementById('facts').innerText.includes('may not see it')", "the page to be emptied")
        row.wait("!document.getElementById('rows').innerText.includes('Press 1')", "the row to go")
        row.wait("document.getElementById('rows').innerText.includes('Press 2')", "the other row")
        alarms.wait("!document.getElementById('rows').innerText.includes('Press 1')", "its alarms to go")
        alarms.wait("document.getElementById('rows').innerText.includes('Press 2')", "the alarms of the other")
        until(lambda: gateway.head(self.mine) > head + 200, "events that nobody may see")
        highest = page.run("window.highest")
        empty = page.run("!document.getElementById('events').innerText.includes('Area1')")
        kept = empty and 0 < highest <= head
        self.promise("a_swap_takes_a_session_away_on_the_open_page", kept, f"shown up to {highest}, flipped by {head}")
        for one in (row, page, alarms):
            one.close()

    def another_build_asks_for_a_reload(self):
        page = self.page(self.ada)
        self.sign_in(page, "ada")
        page.call("Fetch.enable", patterns=[{"urlPattern": self.gateway.url + "/", "requestStage": "Response"}])
        page.run("void setTimeout(() => location.reload())")
        page.until(lambda: page.paused, "the page on its way")
        request = page.paused.pop()["requestId"]
        body = page.call("Fetch.getResponseBody", requestId=request)
        text = base64.b64decode(body["body"]).decode() if body["base64Encoded"] else body["body"]
        text = re.sub(r'data-build="[^"]*"', 'data-build="0.0.0-older"', text)
        headers = [{"name": "Content-Type", "value": "text/html; charset=utf-8"}]
        encoded = base64.b64encode(text.encode()).decode()
        page.call("Fetch.fulfillRequest", requestId=request, responseCode=200, responseHeaders=headers, body=encoded)
        said = page.wait(
            "document.getElementById('connection')?.dataset.state === 'update' && document.getElementById('connection').innerText",
            "the page to ask for a reload",
        )
        self.promise("another_build_asks_for_a_reload", "reload" in said, said)
        page.close()

    def a_gateway_that_is_killed_comes_back(self):
        page = self.page(self.ada)
        self.sign_in(page, "ada")
        page.go(f"{self.gateway.url}/sessions/{self.mine}")
        page.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
        latency = page.wait("/^\\d+ ms$/.test(document.getElementById('connection-more').innerText) && document.getElementById('connection-more').innerText", "the latency")
        page.run(
            """(() => { window.states = ['active']; window.countdown = [];
            const look = () => { const is = document.getElementById('connection').dataset.state;
              if (window.states.at(-1) !== is) window.states.push(is);
              const left = /again in (\\d+) s/.exec(document.getElementById('connection-more').innerText);
              if (left && window.countdown.at(-1) !== Number(left[1])) window.countdown.push(Number(left[1])); };
            new MutationObserver(look).observe(document.querySelector('.state'), { subtree: true, childList: true, attributes: true, characterData: true }); })()"""
        )
        # The line alone: it comes back by itself on the same page.
        page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
        # What is open already is not cut by that; a gateway that is stopped says nothing either.
        os.kill(self.gateway.process.pid, signal.SIGSTOP)
        page.wait("window.states.includes('reconnecting')", "the silence to be noticed", 60)
        os.kill(self.gateway.process.pid, signal.SIGCONT)
        page.call("Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1)
        page.wait("document.getElementById('connection').dataset.state === 'active'", "the connection to come back", 60)
        back = page.run("window.states")
        # Now the gateway itself.
        self.gateway.kill()
        page.wait("window.states.includes('unavailable')", "the end of patience", 90)
        states, countdown = page.run("window.states"), page.run("window.countdown")
        words = page.run("document.getElementById('connection').innerText")
        self.gateway.start()
        page.wait(f"location.pathname === '/sign-in' && {FOCUSED}", "the sign-in of the gateway that is back", 90)
        page.type("ada")
        page.press("Tab")
        page.type(PASSWORD)
        page.press("Enter")
        page.wait(f"location.pathname === '/sessions/{self.mine}'", "the page from before")
        counts_down = any(after == before - 1 for before, after in zip(countdown, countdown[1:]))
        kept = {"connecting", "active", "reconnecting"} <= set(back) and "unavailable" in states and counts_down
        self.promise("a_gateway_that_is_killed_comes_back", kept, f"{states}, countdown {countdown}, {words}, {latency}")
        page.close()

    def no_page_broke_its_content_policy(self):
        complaints = sorted({text for page in self.pages for text in page.complaints})
        self.promise("no_page_broke_its_content_policy", not complaints, complaints or "")

    def a_part_that_fails_is_seen_and_its_end_too(self):
        log = self.folder / "full.log"
        log.symlink_to("/dev/full")
        gateway = Gateway(self.args.tidegate, self.folder / "full", ["--log-file", str(log)], level="info")
        self.gateway = gateway
        try:
            gateway.add("ada", "Admin")
            page = self.page(self.browser.person())
            self.sign_in(page, "ada")
            page.wait("document.getElementById('connection').dataset.state === 'degraded'", "the page to say so")
            words = page.run("document.getElementById('connection').innerText")
            tile = page.wait("document.getElementById('totals').innerText.includes('cannot be written')", "what it is")
            log.unlink()
            os.kill(gateway.process.pid, signal.SIGUSR1)
            page.wait("document.getElementById('connection').dataset.state === 'active'", "the end of it")
            self.promise("a_part_that_fails_is_seen_and_its_end_too", "degraded" in words and tile, words)
            page.close()
        finally:
            gateway.end()

    def many_sessions_do_not_stutter(self):
        count = self.args.sessions
        gateway = Gateway(
            self.args.tidegate, self.folder / "many", ["--max-sessions", str(count + 8)], backend="rate=2"
        )
        self.gateway = gateway
        try:
            gateway.add("ada", "Admin")
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                opened = [pool.submit(gateway.open, f"line-{n % 8}", f"Press {n}", ("Area1.Pump1.Sine",)) for n in range(count)]
                for one in opened:
                    one.result()
            page = self.page(self.browser.person())
            self.sign_in(page, "ada")
            page.wait(f"document.querySelectorAll('#rows tr').length === {count}", "all rows")
            page.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
            measured = page.run(
                """new Promise(done => { const long = [], frames = []; let last = performance.now(), until = last + 15000;
                const tasks = new PerformanceObserver(list => list.getEntries().forEach(one => long.push(one.duration)));
                tasks.observe({ type: 'longtask' });
                let changes = 0;
                new MutationObserver(list => changes += list.length).observe(document.getElementById('rows'), { childList: true });
                const frame = now => { frames.push(now - last); last = now;
                  if (now < until) return requestAnimationFrame(frame);
                  frames.sort((a, b) => a - b);
                  done({ long_tasks: long.length, longest_task_ms: Math.round(Math.max(0, ...long)), changes,
                    frames: frames.length, frame_p95_ms: Math.round(frames[Math.floor(frames.length * 0.95)]),
                    frame_max_ms: Math.round(frames.at(-1)) }); };
                requestAnimationFrame(frame); })"""
            )
            measured["sessions"] = count
            self.figures["many_sessions"] = measured
            smooth = measured["longest_task_ms"] <= LONG_TASK_MS_MAX and measured["frame_p95_ms"] <= FRAME_P95_MS_MAX
            self.promise("many_sessions_do_not_stutter", smooth and measured["changes"] > count, measured)
        finally:
            gateway.end()

    def pictures(self):
        folder = pathlib.Path(self.args.screenshots)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("Press 3", "Boiler", "Packing"):
            self.gateway.open("line-3", name)
        read = [self.args.tidegate, "client", "stream", self.mine, "--json", "--data", self.gateway.data]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        readers = [subprocess.Popen(read, env=plain_environment(), **quiet) for _ in range(2)]
        try:
            self.take_pictures(folder)
        finally:
            for reader in readers:
                reader.kill()
                reader.wait()

    def take_pictures(self, folder):
        page = self.page(self.ada, 1200, 640)
        for name, path, scheme in [
            ("overview", "/", "light"),
            ("session", f"/sessions/{self.mine}", "light"),
            ("alarms", "/alarms", "dark"),
            ("policies", "/policies", "dark"),
            ("decision", self.decision, "dark"),
        ]:
            page.colours(scheme)
            page.go(self.gateway.url + path)
            if name in ("overview", "session", "alarms"):
                page.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
                page.wait("document.getElementById('connection-more').innerText !== ''", "the latency")
            if name in ("overview", "session"):
                # A curve wants some points.
                page.run("(() => { window.ticks = 0; new MutationObserver(() => window.ticks++).observe(document.querySelector('main'), { subtree: true, childList: true }); return 0; })()")
                page.wait("window.ticks > 30", "some seconds of life")
            page.picture(folder / f"{name}.png")
        page.close()
        phone = self.page(self.ada, *PHONE)
        phone.size(*PHONE, mobile=True)
        phone.colours("dark")
        phone.go(self.gateway.url + "/")
        phone.wait("document.getElementById('connection').dataset.state === 'active'", "the live connection")
        phone.picture(folder / "phone.png")
        phone.close()
        self.promise("pictures", True, folder)


def until(look, what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            raise Broken(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


def plain_environment():
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--tidegate", required=True)
    parser.add_argument("--chromium", required=True)
    parser.add_argument("--axe", required=True)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--screenshots")
    args = parser.parse_args()
    job, began = Job(args), time.monotonic()
    job.browser = job.gateway = None
    job.folder = pathlib.Path(tempfile.mkdtemp(prefix="tidegate-pages"))
    try:
        job.part(job.run)
    finally:
        for what in (job.gateway, job.browser):
            if isinstance(what, Gateway):
                what.end()
            elif what is not None:
                job.figures["browser"] = what.version
                what.close()
        shutil.rmtree(job.folder, ignore_errors=True)
    seconds = round(time.monotonic() - began)
    print(json.dumps({"kept": len(job.kept), "broken": job.broken, "seconds": seconds, **job.figures}))
    return 1 if job.broken else 0


if __name__ == "__main__":
    sys.exit(main())
