// Runs the files of plan.json in LiteRT.js, in turns; shows what came of it, and posts it
// where the plan says so. See trial.py for the plan and result.py for what is posted.

const KINDS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };
const SAME = 1e-3; // as in result.py
const WARM_UP = 3; // calls that are not timed
const TICKS = 50; // a measurement takes at least so many ticks of the browser's clock
const MOST_CALLS = 200; // in one measurement

const byId = (id) => document.getElementById(id);
const breathe = () => new Promise((resolve) => setTimeout(resolve));

let stage = "loading the page";

async function say(text, share) {
  stage = text;
  byId("status").textContent = text;
  byId("progress").value = share;
  await breathe(); // so that it is painted
}

async function get(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

const bytes = async (url) => new Uint8Array(await (await get(url)).arrayBuffer());

// Typed arrays have the byte order of the device; files are little-endian, as all
// devices with a browser are.
const values = (data, dtype) => new KINDS[dtype](data.buffer);

async function fail(error, post) {
  console.error(error);
  const message = `${stage}: ${error?.message ?? error}`;
  byId("error").textContent = `That did not work. ${message}`;
  byId("error").hidden = false;
  byId("progress").hidden = true;
  byId("status").textContent = "Stopped.";
  if (!post) return;
  const body = new TextEncoder().encode(
    JSON.stringify({ message: message.slice(0, 2000), browser: navigator.userAgent }),
  );
  try {
    await send("errors", body);
  } catch (second) {
    console.error(second);
  }
}

async function send(url, body) {
  const headers = { "Content-Type": "application/octet-stream" };
  const response = await fetch(url, { method: "POST", headers, body });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
}

// Milliseconds between two values of the clock, which browsers make coarse on purpose.
function tick() {
  let least = Infinity;
  for (let i = 0; i < 5; i++) {
    const begin = performance.now();
    let now = begin;
    while (now === begin) now = performance.now();
    least = Math.min(least, now - begin);
  }
  return least;
}

function median(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

// The inputs of one call, as tensors under the file's own names.
function tensors(lib, plan, inputs, call, names) {
  const made = {};
  plan.inputs.forEach(({ name, dtype, shape }, i) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const part = inputs[i].slice(call * size, (call + 1) * size);
    const own = Object.keys(names).find((key) => names[key] === name);
    made[own] = new lib.Tensor(part, shape, dtype);
  });
  return made;
}

const free = (named) => Object.values(named).forEach((tensor) => tensor.delete());

// All outputs of a file: for each call a typed array of each output of the plan.
async function outputsOf(lib, plan, inputs, file, model) {
  const found = [];
  for (let call = 0; call < plan.calls; call++) {
    const given = tensors(lib, plan, inputs, call, file.names);
    const results = await model.run(given);
    const byName = {};
    for (const [own, tensor] of Object.entries(results)) {
      byName[file.names[own]] = tensor.toTypedArray().slice();
    }
    for (const { name, dtype } of plan.outputs) {
      const value = byName[name];
      if (!(value instanceof KINDS[dtype])) throw new Error(`no ${dtype} output ${name}`);
      found.push(value);
    }
    free(results);
    free(given);
  }
  return found;
}

async function timed(model, given, calls) {
  const begin = performance.now();
  for (let i = 0; i < calls; i++) free(await model.run(given));
  return (performance.now() - begin) / calls;
}

// Rounds in which each file is called in turn, so that all else that the device does
// meets all of them.
async function times(lib, plan, inputs, models) {
  const given = plan.files.map((file) => tensors(lib, plan, inputs, 0, file.names));
  const least = TICKS * tick();
  const calls = [];
  for (const [i, model] of models.entries()) {
    await timed(model, given[i], WARM_UP);
    const guess = await timed(model, given[i], WARM_UP);
    calls.push(Math.min(MOST_CALLS, Math.max(1, Math.ceil(least / Math.max(guess, 1e-3)))));
  }
  const found = models.map(() => []);
  for (let round = 0; round < plan.repeats; round++) {
    await say(`Timing, round ${round + 1} of ${plan.repeats}`, 0.3 + (0.7 * round) / plan.repeats);
    for (const [i, model] of models.entries()) {
      // A clock that stood still says no less than one tick.
      found[i].push((await timed(model, given[i], calls[i])) || least / TICKS / calls[i]);
    }
  }
  given.forEach(free);
  return found;
}

// As export/checking/compare.py: the worst output, relative to its largest value in the
// first file; and the share of equal argmaxes along the last axis.
function compared(plan, first, own) {
  let worst = 0;
  let zeros = true;
  const shares = [];
  plan.outputs.forEach(({ shape }, k) => {
    const last = shape.length > 1 ? shape[shape.length - 1] : 1;
    let apart = 0;
    let scale = 0;
    let same = 0;
    let rows = 0;
    for (let at = k; at < first.length; at += plan.outputs.length) {
      const [a, b] = [first[at], own[at]];
      for (let i = 0; i < a.length; i++) {
        const distance = Math.abs(a[i] - b[i]);
        if (!(distance <= apart)) apart = distance; // keeps NaN
        scale = Math.max(scale, Math.abs(a[i]));
        zeros &&= b[i] === 0;
      }
      for (let row = 0; last > 1 && row < a.length; row += last, rows++) {
        const best = (list) => {
          const part = list.subarray(row, row + last);
          return part.indexOf(part.reduce((x, y) => (y > x ? y : x)));
        };
        same += best(a) === best(b);
      }
    }
    const relative = apart / (scale || 1);
    if (!(relative <= worst)) worst = relative;
    if (rows) shares.push(same / rows);
  });
  const mean = shares.reduce((a, b) => a + b, 0) / shares.length;
  return { difference: worst, agreement: shares.length ? mean : null, zeros };
}

async function deviceOf(lib, liteRt) {
  const relaxed = await lib.supportsFeature("relaxedSimd");
  const threads = liteRt.liteRtWasm.getThreadCount();
  let device = navigator.platform || "";
  try {
    // Only where the address counts as safe: https, or this machine.
    const hints = ["architecture", "bitness", "model", "platform", "platformVersion"];
    const told = await navigator.userAgentData.getHighEntropyValues(hints);
    const words = [told.model, told.platform, told.platformVersion, told.architecture];
    device = words.filter(Boolean).join(" ") || device;
  } catch {
    // Then the platform has to do.
  }
  return {
    browser: navigator.userAgent,
    device,
    threads: navigator.hardwareConcurrency || 0,
    engine:
      `WebAssembly with ${relaxed ? "relaxed SIMD" : "SIMD"}, ` +
      `${threads} thread${threads === 1 ? "" : "s"}`,
  };
}

function cell(kind, text, label) {
  const made = document.createElement(kind);
  made.textContent = text;
  // Rows that are shown as cards are no longer a table to all browsers: these say so.
  if (kind === "td") made.setAttribute("role", "cell");
  if (kind === "th") {
    made.scope = "row";
    made.setAttribute("role", "rowheader");
  }
  if (label) made.dataset.label = label;
  return made;
}

function show(plan, rows, about) {
  const first = rows[0];
  const warnings = rows.flatMap((row) => {
    if (row.zeros) return [`“${row.name}” answers only zeros: LiteRT.js does not run it correctly.`];
    if (row.difference <= SAME) return [];
    return [`“${row.name}” does not compute what “${first.name}” does.`];
  });
  const best = rows.slice(1).reduce((a, b) => (b.speedup > a.speedup ? b : a), rows[1] ?? first);
  const heading = byId("heading");
  heading.classList.toggle("wrong", warnings.length > 0);
  if (warnings.length) heading.textContent = "Not the same answers";
  else if (rows.length < 2) heading.textContent = `${first.milliseconds.toFixed(2)} ms`;
  else heading.textContent = `${best.name} is ${best.speedup.toFixed(2)} times as fast as ${first.name}`;
  byId("warnings").replaceChildren(
    ...warnings.map((text) => {
      const made = cell("p", text);
      made.className = "bad";
      return made;
    }),
  );
  byId("caption").textContent =
    `${plan.repeats} rounds in turns; ${plan.calls} samples compared`;
  byId("rows").replaceChildren(
    ...rows.map((row) => {
      const made = document.createElement("tr");
      made.setAttribute("role", "row");
      made.append(
        cell("th", row.name),
        cell("td", Math.round(row.bytes / 1000).toLocaleString("en"), "kB"),
        cell("td", row.milliseconds.toFixed(2), "ms"),
        cell("td", `${row.speedup.toFixed(2)}x`, "Faster"),
        cell("td", row.difference.toExponential(1), "Difference"),
        cell("td", row.agreement === null ? "–" : `${(100 * row.agreement).toFixed(1)} %`, "Same answer"),
      );
      return made;
    }),
  );
  const facts = {
    Browser: about.browser,
    Device: about.device || "not told",
    "Hardware threads": about.threads || "not told",
    Engine: `LiteRT.js ${plan.litertjs}, ${about.engine}`,
  };
  byId("device").replaceChildren(
    ...Object.entries(facts).flatMap(([name, text]) => [cell("dt", name), cell("dd", text)]),
  );
  byId("outcome").hidden = false;
}

function packed(about, found, outputs) {
  const header = new TextEncoder().encode(JSON.stringify({ ...about, times: found }));
  const length = new DataView(new ArrayBuffer(4));
  length.setUint32(0, header.length, true);
  return new Blob([length.buffer, header, ...outputs.flat()]);
}

async function main() {
  let post = true; // until the plan says otherwise
  try {
    await say("Loading the plan", 0);
    const plan = await (await get("plan.json")).json();
    post = plan.post;
    byId("posted").hidden = !post;
    await say("Loading LiteRT.js", 0.05);
    const lib = await import("@litertjs/core");
    const liteRt = await lib.loadLiteRt(new URL("litertjs/wasm/", document.baseURI).href);
    const inputs = [];
    for (const { url, dtype } of plan.inputs) inputs.push(values(await bytes(url), dtype));
    const models = [];
    for (const [i, file] of plan.files.entries()) {
      await say(`Loading ${file.name}`, 0.1 + (0.1 * i) / plan.files.length);
      models.push(await lib.loadAndCompile(await bytes(file.url), { accelerator: "wasm" }));
    }
    const outputs = [];
    for (const [i, model] of models.entries()) {
      const file = plan.files[i];
      await say(`Running ${file.name}`, 0.2 + (0.1 * i) / models.length);
      outputs.push(await outputsOf(lib, plan, inputs, file, model));
    }
    const about = await deviceOf(lib, liteRt);
    const run = async () => {
      byId("again").disabled = true;
      const found = await times(lib, plan, inputs, models);
      const rows = plan.files.map(({ name, bytes: size }, i) => ({
        name,
        bytes: size,
        milliseconds: median(found[i]),
        speedup: median(found[i].map((own, k) => found[0][k] / own)),
        ...compared(plan, outputs[0], outputs[i]),
      }));
      show(plan, rows, about);
      if (post) await send(post, packed(about, found, outputs));
      await say("Done.", 1);
      byId("again").disabled = false;
    };
    byId("again").addEventListener("click", () => run().catch((error) => fail(error, post)));
    await run();
  } catch (error) {
    await fail(error, post);
  }
}

main();
