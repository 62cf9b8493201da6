// Sliders through a run's latent space: its ONNX model, run by onnxruntime-web. Both come as scripts beside the page,
// because a page from the file system may fetch no file; nothing is loaded before a reader comes near.
//
// A point has numbers for every input of the model, by name. In what follows the walked input is the one that the
// directions are of; its numbers are standardized: 0 in the middle of what is drawn, 1 a standard deviation from it.
"use strict";
const explorer = {}; // the scripts beside the page call explorer.runtime and explorer.model
{
  const section = document.getElementById("explorer");
  const WALK = 9, REACH = 3, SEED = 1, AXES = 8;
  const SCALES = { normal: { middle: 0, deviation: 1 }, uniform: { middle: 0.5, deviation: Math.sqrt(1 / 12) } };
  const models = new Map(); // by run: { about, session, point, start, end, label, seed }
  const element = id => document.getElementById(id);
  let ort = null, model = null, sliders = [], waiting = null, drawing = false;

  const bytes = base64 => Uint8Array.from(atob(base64), character => character.charCodeAt(0));

  explorer.runtime = async (runtime, program) => {
    explorer.started = (async () => {
      const unpacked = new Blob([bytes(program)]).stream().pipeThrough(new DecompressionStream("gzip"));
      const wasm = await new Response(unpacked).blob();
      const url = URL.createObjectURL(new Blob([wasm], { type: "application/wasm" }));
      Object.assign(runtime.env.wasm, { numThreads: 1, proxy: false, wasmPaths: { "ort-wasm-simd.wasm": url } });
      ort = runtime;
    })();
  };
  explorer.model = (name, about, content) => { models.set(name, { about, content: bytes(content) }); };

  const load = name => new Promise((done, failed) => {
    const script = document.createElement("script");
    script.src = `explorer/${encodeURIComponent(name)}.js`;
    script.onload = done;
    script.onerror = () => failed(new Error(`explorer/${name}.js is not beside this page: keep its folder explorer with it.`));
    document.head.append(script);
  });

  // ---- Random numbers: those of a seed, so that point 3 of a run is the same for all readers

  const uniforms = seed => () => { // mulberry32
    seed = (seed + 0x6d2b79f5) | 0;
    let word = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    word = (word + Math.imul(word ^ (word >>> 7), 61 | word)) ^ word;
    return ((word ^ (word >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = uniform => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const size = input => input.shape.reduce((product, count) => product * count, 1);
  const draw = (about, seed) => {
    const uniform = uniforms(seed), point = {};
    for (const input of about.inputs) {
      const one = { normal: () => normal(uniform), uniform, integers: () => Math.floor(uniform() * input.high) }[input.kind];
      const numbers = Array.from({ length: size(input) }, one);
      const scale = SCALES[input.kind] ?? { middle: 0, deviation: 1 };
      point[input.name] = numbers.map(number => (number - scale.middle) / scale.deviation);
    }
    return point;
  };

  // ---- The model

  const tensor = (input, points) => {
    const shape = [points.length, ...input.shape], flat = points.flatMap(point => point[input.name]);
    if (input.kind === "integers") return new ort.Tensor("int64", BigInt64Array.from(flat, BigInt), shape);
    const { middle, deviation } = SCALES[input.kind];
    const numbers = Float32Array.from(flat, number => middle + deviation * number);
    if (input.kind === "uniform") numbers.forEach((number, place) => { numbers[place] = Math.min(Math.max(number, 0), 1 - 2 ** -24); });
    return new ort.Tensor("float32", numbers, shape);
  };
  const images = async points => {
    const { about, session, label } = model;
    const feeds = Object.fromEntries(about.inputs.map(input => [input.name, tensor(input, points)]));
    if (about.classes) feeds.labels = new ort.Tensor("int64", BigInt64Array.from(points, () => BigInt(label)), [points.length]);
    return (await session.run(feeds)).images;
  };
  const paint = (canvas, drawn, columns) => {
    const [, channels, height, width] = drawn.dims, plane = height * width, gap = Math.ceil(width / 24);
    Object.assign(canvas, { width: columns * (width + gap) - gap, height });
    const context = canvas.getContext("2d");
    for (let column = 0; column < columns; column++) {
      const pixels = context.createImageData(width, height);
      for (let place = 0; place < plane; place++) {
        for (let channel = 0; channel < 3; channel++) {
          const value = drawn.data[(column * channels + Math.min(channel, channels - 1)) * plane + place];
          pixels.data[4 * place + channel] = Math.round((value + 1) * 127.5);
        }
        pixels.data[4 * place + 3] = 255;
      }
      context.putImageData(pixels, column * (width + gap), 0);
    }
  };

  // ---- From one point to another: along a great circle where numbers are normal, since between two of them a straight
  // line passes near the origin, where no sample lies (White, arXiv:1609.04468)

  const between = (start, end, fraction) => {
    const point = {};
    for (const { name, kind } of model.about.inputs) {
      const [a, b] = [start[name], end[name]], dot = (x, y) => x.reduce((sum, value, place) => sum + value * y[place], 0);
      const angle = Math.acos(Math.max(-1, Math.min(1, dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b) || 1))));
      const round = kind === "normal" && a.length > 1 && Math.sin(angle) > 1e-6;
      const left = round ? Math.sin((1 - fraction) * angle) / Math.sin(angle) : 1 - fraction;
      const right = round ? Math.sin(fraction * angle) / Math.sin(angle) : fraction;
      point[name] = kind === "integers" ? (fraction < 0.5 ? a : b) : a.map((value, place) => left * value + right * b[place]);
    }
    return point;
  };

  // ---- Drawing: one at a time, and of what is asked for meanwhile only the latest

  const redraw = (walkToo = false) => {
    waiting = { walkToo: walkToo || Boolean(waiting?.walkToo) };
    if (!drawing) void work();
  };
  const work = async () => {
    drawing = true;
    try {
      while (waiting) {
        const { walkToo } = waiting;
        waiting = null;
        paint(element("picture"), await images([model.point]), 1);
        if (walkToo) {
          const fractions = Array.from({ length: WALK }, (_, place) => place / (WALK - 1));
          paint(element("walk"), await images(fractions.map(fraction => between(model.start, model.end, fraction))), WALK);
        }
      }
      section.dataset.drawn = String(Number(section.dataset.drawn ?? 0) + 1);
    } catch (error) {
      say(error.message);
    } finally {
      drawing = false;
    }
  };
  const say = text => { element("explorer-status").textContent = text; };

  // ---- Sliders: coordinates of the walked input along unit vectors, and each number of small inputs such as codes

  const axes = () => {
    const { about } = model, { of, vectors, shares, sensitivity } = about.directions;
    const percent = share => `${(100 * share).toPrecision(2)}%`, found = [];
    if (of && element("axes").value === "directions") {
      vectors.forEach((vector, place) => found.push({ of, vector, name: `direction ${place + 1}`, of_change: percent(shares[place]) }));
    } else if (of) {
      const order = sensitivity.map((share, place) => place).toSorted((a, b) => sensitivity[b] - sensitivity[a]);
      for (const place of order.slice(0, AXES)) {
        const vector = sensitivity.map((_, other) => Number(other === place));
        found.push({ of, vector, name: `${of} ${place + 1}`, of_change: percent(sensitivity[place]) });
      }
    }
    for (const input of about.inputs) {
      if (input.name === of || input.kind === "integers" || size(input) > AXES) continue;
      for (let place = 0; place < size(input); place++) {
        const vector = Array.from({ length: size(input) }, (_, other) => Number(other === place));
        found.push({ of: input.name, vector, name: `${input.name} ${place + 1}`, of_change: "" });
      }
    }
    return found;
  };
  const coordinate = axis => axis.vector.reduce((sum, value, place) => sum + value * model.point[axis.of][place], 0);
  const move = (axis, to) => {
    const by = to - coordinate(axis);
    model.point = { ...model.point, [axis.of]: model.point[axis.of].map((value, place) => value + by * axis.vector[place]) };
  };
  const build = () => {
    const box = section.querySelector(".sliders");
    sliders = axes().map(axis => {
      const label = document.createElement("label"), name = document.createElement("span"), value = document.createElement("span");
      const range = Object.assign(document.createElement("input"), { type: "range", min: -REACH, max: REACH, step: 0.05 });
      name.textContent = axis.name;
      if (axis.of_change) name.append(Object.assign(document.createElement("span"), { className: "soft", textContent: ` · ${axis.of_change} of the change` }));
      value.className = "soft mono";
      label.append(name, value, range);
      range.addEventListener("input", () => { move(axis, Number(range.value)); settle(); redraw(); });
      return { axis, label, range, value };
    });
    box.replaceChildren(...sliders.map(slider => slider.label));
    if (!sliders.length) box.textContent = "The image does not change smoothly with what this run draws, so there is no direction to walk in: only new points.";
    settle();
  };
  const settle = () => {
    for (const { axis, range, value } of sliders) {
      const at = coordinate(axis);
      if (Math.abs(Number(range.value) - at) > 0.025) range.value = String(at);
      value.textContent = at.toFixed(2);
    }
  };
  const choice = (title, options, chosen, change) => {
    const label = document.createElement("label"), select = Object.assign(document.createElement("select"), { className: "control" });
    select.append(...options.map((name, place) => new Option(name, String(place))));
    select.value = String(chosen);
    select.addEventListener("change", () => { change(Number(select.value)); redraw(true); });
    label.append(`${title} `, select);
    return label;
  };
  const choices = () => {
    const { about } = model, found = [], names = JSON.parse(section.dataset.classes || "[]");
    const counted = count => Array.from({ length: count }, (_, place) => String(names.length === count ? names[place] : place));
    if (about.classes) found.push(choice("class", counted(about.classes), model.label, label => { model.label = label; }));
    for (const { name, high } of about.inputs.filter(input => input.kind === "integers" && size(input) === 1)) {
      const numbered = Array.from({ length: high }, (_, place) => String(place));
      found.push(choice(name, numbered, model.point[name][0], value => {
        for (const place of ["point", "start", "end"]) model[place] = { ...model[place], [name]: [value] };
      }));
    }
    element("choices").replaceChildren(...found);
    element("choices").hidden = !found.length;
  };

  // ---- What the reader does

  const arrive = point => { // at a point from which the sliders go on
    model.point = point;
    element("fraction").value = "0";
    settle();
    redraw();
  };
  const show = async name => {
    say(`Loading ${name} …`);
    try {
      if (!ort) { await load("runtime"); await explorer.started; }
      if (!models.has(name)) await load(name);
      const opened = models.get(name);
      opened.session ??= await ort.InferenceSession.create(opened.content, { executionProviders: ["wasm"] });
      opened.seed ??= SEED;
      opened.label ??= 0;
      opened.start ??= draw(opened.about, SEED);
      opened.end ??= draw(opened.about, SEED + 1);
      opened.point ??= opened.start;
      if (element("explored").value !== name) return; // the reader has chosen another meanwhile
      model = opened;
      choices();
      build();
      tell();
      redraw(true);
    } catch (error) {
      say(error.message);
    }
  };
  const tell = () => {
    const { about, seed } = model;
    say(`${element("explored").value} (${about.method}), point ${seed}; ${about.images[1]} × ${about.images[2]} pixels`);
  };

  if (section) {
    section.hidden = false;
    element("explored").addEventListener("change", event => void show(event.target.value));
    element("axes").addEventListener("change", () => model && build());
    element("new-point").addEventListener("click", () => {
      if (!model) return;
      model.seed += 1;
      arrive(draw(model.about, model.seed));
      choices();
      tell();
    });
    element("reset").addEventListener("click", () => model && arrive(draw(model.about, model.seed)));
    element("set-start").addEventListener("click", () => { if (model) { model.start = model.point; redraw(true); } });
    element("set-end").addEventListener("click", () => { if (model) { model.end = model.point; redraw(true); } });
    element("fraction").addEventListener("input", event => {
      if (!model) return;
      model.point = between(model.start, model.end, Number(event.target.value));
      settle();
      redraw();
    });
    new IntersectionObserver((entries, observer) => {
      if (!entries.some(entry => entry.isIntersecting)) return;
      observer.disconnect();
      void show(element("explored").value);
    }, { rootMargin: "200px" }).observe(section);
  }
}
