// Drives the dashboard's page in Chromium. LINK opens it; FOLDER has node_modules; ID is a request that waits, whose reason
// is REASON; SHOTS, where it is set, is where pictures go. Fails at the first thing that is not as it must be.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { createRequire } from 'node:module';

const { LINK, FOLDER, ID, REASON, SHOTS } = process.env;
const require = createRequire(path.join(FOLDER, 'node_modules', 'x'));
const { chromium } = require('playwright-core');
const axe = fs.readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const root = new URL('/', LINK).href;
const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox'] });

/** A page that remembers what it complained of. */
async function open(context) {
  const page = await context.newPage();
  page.complaints = [];
  page.on('pageerror', (error) => page.complaints.push(String(error)));
  page.on('dialog', (dialog) => { page.complaints.push(`dialog: ${dialog.message()}`); dialog.dismiss(); });
  page.on('console', (it) => { if (it.type() === 'error') page.complaints.push(it.text()); });
  return page;
}

async function shot(page, name) {
  if (SHOTS) await page.screenshot({ path: path.join(SHOTS, `${name}.png`) });
}

try {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
  const page = await open(context);
  assert.equal((await page.goto(LINK)).status(), 200);
  assert.equal(page.url(), root, 'the token is not in the address any more');
  const card = page.locator(`#card-${ID}`);
  const yes = card.getByRole('button', { name: 'Approve…' });
  await yes.and(page.locator(':enabled')).waitFor({ timeout: 30000 });

  // Another browser gets nothing by the same link, and nothing without the cookie.
  const stranger = await (await browser.newContext()).newPage();
  assert.equal((await stranger.goto(LINK)).status(), 401);
  assert.equal((await stranger.goto(root)).status(), 401);

  // What the agent wrote is text.
  assert.equal(await card.locator('blockquote').innerText(), REASON);
  assert.equal(await page.locator('img, iframe, object').count(), 0);
  assert.match(await page.title(), /^\(1\) bottle · /);
  const markup = await page.evaluate(() => {
    try { document.body.innerHTML = '<b>x</b>'; return 'set'; } catch (error) { return error.name; }
  });
  assert.equal(markup, 'TypeError', 'no text becomes markup');

  // A page of another port of this machine: no reading, no form, no fetch.
  const evil = http.createServer((_, answer) => {
    answer.setHeader('content-type', 'text/html');
    answer.end(`<form method="post" action="${root}api/requests/${ID}/approve"><button>x</button></form>`);
  });
  await new Promise((done) => evil.listen(0, '127.0.0.1', done));
  const other = await open(context);
  await other.goto(`http://127.0.0.1:${evil.address().port}/`);
  const read = await other.evaluate(async (at) => {
    try { return (await fetch(at, { credentials: 'include' })).status; } catch (error) { return error.name; }
  }, `${root}api/events`);
  assert.equal(read, 'TypeError');
  const sent = await other.evaluate(async (at) => {
    try {
      await fetch(at, { method: 'POST', credentials: 'include', headers: { 'Content-Type': 'application/json', 'X-Bottle': '1' }, body: '{}' });
      return 'sent';
    } catch (error) { return error.name; }
  }, `${root}api/requests/${ID}/approve`);
  assert.equal(sent, 'TypeError');
  const [form] = await Promise.all([other.waitForNavigation(), other.click('button')]);
  assert.equal(form.status(), 403);
  await other.close();
  evil.close();

  // Narrow and wide, light and dark, for whoever hears it and whoever sees it.
  const checker = await browser.newContext({ bypassCSP: true, storageState: await context.storageState() });
  const checked = await checker.newPage();
  await checked.goto(root);
  await checked.locator(`#card-${ID} pre`).waitFor();
  for (const [width, height] of [[400, 800], [1280, 800], [3840, 2160]]) {
    for (const colorScheme of ['light', 'dark']) {
      await checked.setViewportSize({ width, height });
      await checked.emulateMedia({ colorScheme });
      for (const view of ['requests', 'sandboxes', 'sandbox/ada', 'history']) {
        await checked.evaluate((hash) => { location.hash = hash; }, view);
        await checked.waitForTimeout(150);
        const wide = await checked.evaluate(() => document.documentElement.scrollWidth);
        assert.ok(wide <= width, `${view} is ${wide} wide in ${width}`);
        await checked.evaluate(axe);
        const found = await checked.evaluate(async () => (await axe.run()).violations.map((it) => `${it.id}: ${it.nodes.map((n) => n.target)}`));
        assert.deepEqual(found, [], `${view}, ${width}, ${colorScheme}`);
        if (view === 'requests') await shot(checked, `dashboard-${width}-${colorScheme}`);
      }
    }
  }
  await checker.close();

  // By the keyboard alone: Enter opens the question, and Enter does not say yes to it.
  await page.bringToFront();
  await yes.focus();
  await page.keyboard.press('Enter');
  await page.locator('dialog[open]').waitFor();
  await page.keyboard.press('Enter');
  await page.locator('dialog[open]').waitFor({ state: 'detached' });
  await page.waitForTimeout(300);
  assert.equal(await card.count(), 1, 'it waits still');
  await yes.click();
  await page.locator('#ask-yes').click();
  await page.locator('#decided', { hasText: ID }).waitFor({ timeout: 30000 });
  assert.equal(await card.count(), 0);
  assert.deepEqual(page.complaints.filter((it) => !it.includes('TrustedHTML')), []);
  console.log('all of it is as it must be');
} finally {
  await browser.close();
}
