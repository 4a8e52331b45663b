// Scenarios: actions on a page, and assertions. Each may return patterns of expected console messages.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";

const EMPTY_PAGE_MS = 400; // to open a page of a few nodes in a fresh browser, on an idle machine with 2 cores

const text = (page, selector) => page.locator(selector).first().innerText();
const selected = (page) => page.locator(".row.selected .id").innerText();
const blocks = async (page, selector) => {
  const block = page.locator(`${selector} .text`).first();
  await block.scrollIntoViewIfNeeded();
  await page.waitForFunction((element) => element.textContent !== "", await block.elementHandle());
  return block.innerText();
};

/** A run of depth 2 or more with the answer 2016. */
export async function tree(page, { open }) {
  await open();
  assert.equal(await blocks(page, ".block.answer"), "2016");
  assert.match(await text(page, ".run-head"), /answered/);
  const rows = await page.locator(".tree .row").count();
  assert(rows > 5, `${rows} rows`);

  // From the cell to a call of it, and back with the browser.
  await page.locator(".calls a").first().click();
  assert.equal(await selected(page), "0.1");
  assert.match(await text(page, ".detail h2"), /^RLM 0\.1/);
  await page.locator(".crumbs a").first().click();
  assert.equal(await selected(page), "0");
  await page.goBack();
  assert.equal(await selected(page), "0.1");

  // The code of the cell is highlighted.
  assert((await blocks(page, ".cell .code")).includes("llm_batch"));
  assert((await page.locator(".py-keyword").count()) > 0);

  // Keyboard navigation of the tree.
  await page.keyboard.press("g");
  await page.keyboard.press("Home");
  assert.equal(await selected(page), "0");
  assert.match(await text(page, ".detail h2"), /^RLM 0 /);
  await page.keyboard.press("ArrowDown");
  assert.equal(await selected(page), "0.1");
  const level = (index) => page.locator(".row").nth(index).getAttribute("aria-level");
  assert.equal(await level(2), "3");
  await page.keyboard.press("ArrowLeft"); // collapses it
  assert.equal(await page.locator(".row.selected").getAttribute("aria-expanded"), "false");
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("ArrowRight");
  assert.equal(await selected(page), "0.1.1");
  await page.keyboard.press("ArrowLeft");
  assert.equal(await selected(page), "0.1");
  assert.equal(
    await page.locator(".tree").getAttribute("aria-activedescendant"),
    await page.locator(".row.selected").getAttribute("id"),
  );
  await page.keyboard.press("k");
  assert.equal(await selected(page), "0");
  await page.keyboard.press("j");
  assert.equal(await selected(page), "0.1");

  // The timeline zooms, and its rows lead to their nodes.
  await page.keyboard.press("t");
  await page.waitForSelector(".wrow");
  const all = await page.locator(".timeline [role=status]").innerText();
  await page.getByRole("button", { name: "Zoom in" }).click();
  await page.getByRole("button", { name: "Zoom in" }).click();
  assert.notEqual(await page.locator(".timeline [role=status]").innerText(), all);
  await page.getByRole("button", { name: "Reset zoom" }).click();
  assert.equal(await page.locator(".timeline [role=status]").innerText(), all);
  await page.locator(".wrow a").nth(2).click();
  assert.match(page.url(), /#0\/2$/);
  assert(await page.locator(".panel-node").isVisible());

  // The shortcuts dialog, and the theme.
  await page.keyboard.press("?");
  assert(await page.locator("dialog").isVisible());
  await page.keyboard.press("Escape");
  const paper = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const before = await paper();
  await page.keyboard.press("b");
  assert.notEqual(await paper(), before);
}

/** A run whose answer consists of words that calls found in their slices of the context. The page has the context. */
export async function slices(page, { open }) {
  await open();
  const origin = page.locator("section", { hasText: "Where the answer came from" });
  const row = origin.locator("tbody tr").first();
  const word = await row.locator("td").first().innerText();
  await row.locator("td").nth(3).locator("a").first().click();
  await page.waitForFunction((expected) => document.querySelector(".context .text").textContent.includes(expected), word);
  assert(await page.locator(".context mark").first().isVisible());
  assert.match(await text(page, ".context"), /slices? found in the prompts and contexts of calls/);

  // Search finds the word in a call's answer and in the context, and links there.
  await page.keyboard.press("/");
  await page.keyboard.type(word);
  await page.waitForFunction(() => /^\d+ match(es)?$/.test(document.querySelector(".search [role=status]").textContent));
  const found = await page.locator(".hit a").allInnerTexts();
  assert(
    found.some((line) => line.startsWith("context")),
    found.join("\n"),
  );
  assert(
    found.some((line) => /^0\.\d+ answer/.test(line)),
    found.join("\n"),
  );
  await page
    .locator(".hit a", { hasText: /^0\.\d+ answer/ })
    .first()
    .click();
  assert((await blocks(page, ".block.answer")).includes(word));
}

/** Two runs. */
export async function two(page, { open }) {
  await page.setViewportSize({ width: 1600, height: 1000 });
  await open();
  assert.equal(await page.locator(".run").count(), 2);
  assert.equal(await page.locator(".comparison thead th").count(), 4);
  await page.locator(".run").nth(1).locator(".row").nth(1).click();
  assert.equal(await page.locator(".run").nth(1).locator(".row.selected .id").innerText(), "0.1");
  assert.equal(await page.locator(".run").nth(0).locator(".row.selected .id").innerText(), "0");
  await page.keyboard.press("j"); // applies to the run used last
  assert.notEqual(await page.locator(".run").nth(1).locator(".row.selected .id").innerText(), "0.1");
}

/** On a phone, nothing overflows sideways, and each part is a tab. */
export async function narrow(page, { address, open }) {
  await page.setViewportSize({ width: 400, height: 800 });
  await open();
  for (const [number, tab] of ["calls", "0", "timeline", "context", "search"].entries()) {
    await page.goto(`${address}#0/${tab}`);
    await page.waitForFunction(
      (index) => document.querySelectorAll(".tab")[index].getAttribute("aria-selected") === "true",
      number,
    );
    const visible = await page
      .locator(".panel")
      .evaluateAll((panels) => panels.filter((panel) => panel.offsetParent).length);
    assert.equal(visible, 1, tab);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert(wide <= 400, `${tab}: ${wide} px`);
  }
}

/** axe-core (WCAG 2 and best practices) finds no violation in any view, light or dark. */
export async function accessible(page, { address, open }) {
  const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  await open();
  await page.evaluate(axe);
  for (const view of ["0", "1", "timeline", "context/0", "search"]) {
    await page.goto(`${address}#0/${view}`);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(200);
      const { violations } = await page.evaluate(() => window.axe.run());
      const found = violations.map(({ id, nodes }) => `${colorScheme} ${view} ${id}: ${nodes[0].html.slice(0, 200)}`);
      assert.deepEqual(found, []);
    }
  }
}

/** In print, all rows and texts are visible without scrolling, dark on light. */
export async function print(page, { open }) {
  await open();
  await page.waitForTimeout(500);
  await page.emulateMedia({ media: "print", colorScheme: "dark" });
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme), "light");
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector(".panel-node")).overflowY), "visible");
  assert(!(await page.locator(".tabs").isVisible()));
  assert(await page.locator(".block.answer").first().isVisible());
  // Rows keep their order and do not overlap.
  const tops = await page.locator(".tree .row").evaluateAll((rows) => rows.map((row) => row.getBoundingClientRect().top));
  assert.deepEqual(
    tops,
    [...tops].sort((a, b) => a - b),
  );
  assert(pages(await page.pdf()) < 12);
}

/** The number of pages of a PDF. */
const pages = (pdf) => pdf.toString("latin1").match(/\/Type\s*\/Page\b/g).length;

/** Printing lists the first 1,000 of 10,001 calls, and counts the rest. */
export async function printed(page, { address, open }) {
  await open(address.replace(/[^/]*$/, "large.html"));
  await page.emulateMedia({ media: "print" });
  await page.evaluate(() => dispatchEvent(new Event("beforeprint")));
  assert.equal(await page.locator(".tree .row").count(), 1_000);
  assert.equal(await text(page, ".tree .rows > :last-child"), "… and 9,001 more");
  const sheets = pages(await page.pdf());
  assert(sheets > 15 && sheets < 60, `${sheets} sheets`);
  await page.evaluate(() => dispatchEvent(new Event("afterprint")));
  await page.emulateMedia({ media: "screen" });
  assert((await page.locator(".tree .row").count()) < 100);
  assert.equal(await page.locator(".tree .rows > .muted").count(), 0);
}

/** An unfinished run. */
export async function unfinished(page, { open }) {
  await open();
  assert.match(await text(page, ".run-head"), /unfinished/);
  assert.match(await text(page, ".detail"), /unfinished when this page was written/);
  assert.match(await text(page, ".cell .badge"), /unfinished/);
}

/** Thinking is folded in front of its reply. 200,000 characters open at once, and search finds what they hold. */
export async function thinking(page, { address, open }) {
  await open();
  const folds = page.locator(".detail details", { hasText: "Thinking" });
  assert.deepEqual(await folds.locator("summary").allInnerTexts(), [
    "Thinking (200,000 characters)",
    "Thinking (30 characters)",
  ]);
  assert.equal(await folds.first().locator(".block").count(), 0);
  assert(!(await page.locator(".detail").innerText()).includes("is no answer"));
  const order = await page
    .locator(".turn")
    .last()
    .locator(".entry > *")
    .evaluateAll((parts) => parts.map((part) => part.innerText.replace(/\s+/g, " ").slice(0, 8)));
  assert.deepEqual(order.slice(1), ["Thinking", "FINAL(no", "Raw repl"]);
  await folds.last().locator("summary").click();
  assert.equal(await blocks(page, ".turn:last-child details[open]"), "FINAL(somewhere) is no answer.");

  const started = performance.now();
  await folds.first().locator("summary").click();
  const shown = await blocks(page, ".turn details[open]");
  assert(performance.now() - started < 2_000);
  assert(shown.length <= 3_000);
  await page.getByRole("button", { name: "Show all 200,000 characters" }).click();
  await page.waitForFunction(() => document.querySelector(".turn details[open] .text").textContent.endsWith("\n."));

  await page.keyboard.press("/");
  for (const [word, name] of [
    ["zanzibar", "0 thinking in turn 1"],
    ["timbuktu", "0.1 thinking"],
  ]) {
    await page.locator("input[type=search]").fill(word);
    await page.locator(".hit a", { hasText: name }).waitFor();
    assert.equal(await page.locator(".hit").count(), 1);
  }
  await page.locator(".hit a").click();
  assert.equal(await selected(page), "0.1");
  await page.locator(".detail summary", { hasText: "Thinking (22 characters)" }).click();
  assert.equal(await blocks(page, ".detail details[open]"), "It may be in timbuktu.");
}

/** A run that a limit stopped before it had an answer. No label of its timeline is cut off. */
export async function stopped(page, { address, open }) {
  await open();
  const answer = page.locator(".detail section", { hasText: "Answer" });
  assert.match(await answer.innerText(), /The answer is empty \(token limit\)\./);
  assert.equal(await answer.locator(".block").count(), 0);
  for (const width of [1280, 400]) {
    await page.setViewportSize({ width, height: 800 });
    await page.goto(`${address}#0/timeline`);
    const last = page.locator(".axis span").last();
    assert.equal(await last.innerText(), "300 ms");
    const cut = await last.evaluate((label) => {
      const end = label.getBoundingClientRect().right;
      const axis = label.parentElement;
      const hides = getComputedStyle(axis).overflowX !== "visible";
      return end > Math.min(innerWidth, hides ? axis.getBoundingClientRect().right : innerWidth);
    });
    assert(!cut, `${width} px`);
    assert(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${width} px`);
  }
}

/** A resumed run: replies from the journal, live replies, and host function calls. */
export async function resumed(page, { address, open }) {
  await open();
  const detail = page.locator(".detail");
  assert.match(await detail.innerText(), /Resumed\s+After .*, with 5 recorded calls, 2 of them in flight\./);
  assert.match(await detail.innerText(), /call 2 differs from the recording/);
  assert.equal(await detail.locator(".badge", { hasText: "from the journal" }).count(), 1);
  assert.match(await detail.innerText(), /12 host function calls/);
  assert.equal(await detail.locator(".tool").count(), 10);
  assert.equal(await detail.locator(".tool .dot.bad").count(), 1);
  assert.equal(await blocks(page, ".tool"), "('apples', 0)");
  await page.getByRole("button", { name: "Show all 12" }).click();
  assert.equal(await detail.locator(".tool").count(), 12);
  assert.match(await detail.innerText(), /limits raised\s*max_lm_calls: 20,000\s*max_seconds: none/);
  assert.match(await detail.innerText(), /Further question\s*with a context of 1.50 kB/);
  assert.match(await detail.innerText(), /Turn 1 of 9[^]*Turn 2 of 9[^]*Turn 1 of 9/);
  await page.goto(`${address}#0/1`);
  assert.match(await text(page, ".detail h2"), /RLM 0\.1 answered from the journal/);
}

/** Every text is an attack. Showing all of them executes nothing. */
export async function attacks(page, { address, open }) {
  await open();
  const inert = async () => {
    const state = await page.evaluate(() => ({
      ran: window.pwned,
      polluted: {}.polluted,
      alive: [
        ...document.querySelectorAll(
          "script, iframe, img, object, embed, form, base, link, meta, video, audio, template",
        ),
      ]
        .map((element) => element.outerHTML.slice(0, 60))
        .filter(
          (html) =>
            !/^<(script type="application\/gzip" id="(runs|t\d+|end)"|script>|meta |link rel="icon" href="data:,")/.test(
              html,
            ),
        ),
      scripts: [...document.scripts].filter((script) => script.type === "").length,
      handlers: [...document.querySelectorAll("*")]
        .flatMap((element) => [...element.attributes])
        .filter((attribute) => attribute.name.startsWith("on")).length,
      links: [...document.querySelectorAll("[href]")]
        .map((element) => element.getAttribute("href"))
        .filter((href) => !/^(#[\w/]+|data:,)$/.test(href)),
    }));
    assert.deepEqual(state, { ran: undefined, polluted: undefined, alive: [], scripts: 1, handlers: 0, links: [] });
  };
  const count = await page.locator(".tree .row").count();
  assert(count >= 5);
  assert((await page.locator(".detail summary", { hasText: "Prompt as sent" }).count()) > 0);
  for (let index = 0; index < count; index++) {
    await page.goto(`${address}#0/${index}`);
    for (const summary of await page.locator(".detail summary").all()) await summary.click();
    for (const block of await page.locator(".detail .block").all()) await block.scrollIntoViewIfNeeded();
    await page.waitForFunction(() => {
      // A text that loaded above may have pushed a block out of view before the observer saw it.
      const empty = [...document.querySelectorAll(".detail .block .text")].find((element) => !element.textContent);
      empty?.scrollIntoView();
      return !empty;
    });
    await inert();
  }
  for (const tab of [
    "timeline",
    "context/0",
    "context/999999999",
    "search",
    "__proto__",
    "constructor/x",
    "-1",
    "1e9",
    "0/<img src=x onerror=pwned=1>",
  ]) {
    await page.goto(`${address}#0/${tab}`);
    await inert();
  }
  for (const query of ["<", "(", "\\", "__proto__", "[", "script"]) {
    await page.goto(`${address}#0/search`);
    await page.locator("input[type=search]").fill(query);
    await page.waitForFunction(() => /match(es)?$/.test(document.querySelector(".search [role=status]").textContent));
    await inert();
  }
  // Invisible characters appear as escapes.
  const all = await page.evaluate(() => document.querySelector(".tree").textContent);
  assert(!/[\u202a-\u202e\u2066-\u2069\u200b\u0000-\u0008]/.test(all));
  assert(all.includes("\\u202e"), "direction overrides appear as escapes");
}

/** If markup reached the page, its policy would stop it. */
export async function policy(page, { open }) {
  await open();
  const outcome = await page.evaluate(() => {
    const errors = [];
    try {
      document.body.insertAdjacentHTML("beforeend", "<b>markup</b>");
    } catch (error) {
      errors.push(error.name);
    }
    try {
      const script = document.createElement("script");
      script.textContent = "window.pwned = 1";
      document.body.append(script);
    } catch (error) {
      errors.push(error.name);
    }
    const image = document.createElement("img");
    image.src = "https://example.invalid/x.png";
    document.body.append(image);
    const style = document.createElement("style");
    style.textContent = "body { outline: 1px solid red }";
    document.body.append(style);
    const frame = document.createElement("iframe");
    frame.src = "https://example.invalid/";
    document.body.append(frame);
    return errors;
  });
  const fetched = await page.evaluate(() =>
    fetch("https://example.invalid/").then(
      () => true,
      () => false,
    ),
  );
  assert.deepEqual(outcome, ["TypeError", "TypeError"]);
  assert.equal(fetched, false);
  assert.equal(await page.evaluate(() => window.pwned), undefined);
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).outlineStyle), "none");
  return [
    /^request: https:\/\/example\.invalid\/x\.png csp$/,
    /^console: .*(Content Security Policy|TrustedHTML|TrustedScript|requires '?Trusted)/,
  ];
}

/** 10,000 calls: the first rows appear in time, few rows are in the document, and the last one is reachable. */
export async function large(page, { address, open }) {
  // A small page measures how much a busy machine slows things down.
  const small = await open();
  await page.goto("about:blank");
  const took = await open(address.replace(/[^/]*$/, "large.html"));
  const limit = 2_000 * Math.max(1, small / EMPTY_PAGE_MS);
  assert(took < limit, `${Math.round(took)} ms; a small page took ${Math.round(small)} ms`);
  assert((await page.locator(".tree .row").count()) < 100);
  await page.keyboard.press("g");
  await page.keyboard.press("End");
  assert.equal(await selected(page), "0.10000");
  await page.selectOption(".calls-panel select", "RLMs only");
  assert.equal(await page.locator(".tree .row").count(), 1);
  await page.keyboard.press("k"); // to a call that the filter hides: selecting it resets the filter
  assert.equal(await selected(page), "0.9999");
  assert((await blocks(page, ".detail .block")).length > 100);
  await page.keyboard.press("t");
  await page.waitForSelector(".wrow");
  assert((await page.locator(".wrow").count()) < 100);
}
