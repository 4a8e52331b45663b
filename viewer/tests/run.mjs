// node run.mjs SCENARIO FILE: opens a page in Chromium and runs a scenario of scenarios.mjs on it.
// Exit status 0: all assertions hold, and the page made no requests and wrote nothing to the console.
import assert from "node:assert/strict";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { chromium } from "playwright-core";
import * as scenarios from "./scenarios.mjs";

const [name, file] = process.argv.slice(2);
const scenario = scenarios[name];
assert(scenario, `unknown scenario ${name}`);

/** Open the page. Returns the milliseconds until its first rows appeared. */
async function open(page, address) {
  const started = performance.now();
  await page.goto(address, { waitUntil: "commit" });
  await page.waitForSelector("html[data-ready]");
  await page.waitForSelector(".tree .row", { state: "attached" });
  return performance.now() - started;
}

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"],
});
try {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(10_000);
  const address = pathToFileURL(path.resolve(file)).href;
  const folder = address.replace(/[^/]*$/, "");
  const seen = [];
  const asked = [];
  page.on("request", (request) => {
    if (!request.url().startsWith(folder) && request.url() !== "data:,") asked.push(request);
  });
  page.on("console", (message) => seen.push(`console: ${message.text()}`));
  page.on("pageerror", (error) => seen.push(`error: ${error.message}`));
  page.on("dialog", (dialog) => {
    seen.push(`dialog: ${dialog.message()}`);
    void dialog.dismiss();
  });
  page.on("popup", () => seen.push("popup"));
  const expected = (await scenario(page, { address, open: (other = address) => open(page, other) })) ?? [];
  // A request that the policy blocks never leaves the browser; it is reported as failed with "csp".
  seen.push(...asked.map((request) => `request: ${request.url()} ${request.failure()?.errorText ?? "sent"}`));
  const unexpected = seen.filter((line) => !expected.some((pattern) => pattern.test(line)));
  assert.deepEqual(unexpected, []);
} finally {
  await browser.close();
}
