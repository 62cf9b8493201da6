// Any two runs side by side: their samples and curves, their numbers, and the params, marked where they differ.
"use strict";
{
  const section = document.getElementById("comparison");
  const runs = JSON.parse(document.getElementById("runs-data").textContent);
  if (section) {
    const [first, second] = section.querySelectorAll("select"), equalToo = document.getElementById("equal-too");
    const pair = section.querySelector(".pair"), heads = section.querySelectorAll("thead th"), body = section.querySelector("tbody");
    section.hidden = false;
    for (const select of [first, second]) select.append(...runs.map(run => new Option(run.name)));
    second.selectedIndex = 1;

    const made = (tag, text, ...classes) => {
      const element = document.createElement(tag);
      element.textContent = text;
      element.classList.add(...classes);
      return element;
    };
    const row = (name, values, differs) => {
      const made_row = document.createElement("tr");
      if (differs) made_row.className = "differs";
      made_row.append(made("td", name, "mono"), ...values.map(value => made("td", value ?? "–", "mono", ...(value == null ? ["absent"] : []))));
      return made_row;
    };
    const pictures = run => {
      const figure = document.createElement("figure"), samples = document.getElementById(`samples-${run.name}`);
      const curves = document.getElementById(`run-${run.name}`)?.querySelector("figure.curves");
      figure.append(made("h3", run.name));
      if (samples) figure.append(Object.assign(samples.cloneNode(), { id: "" }));
      if (curves) {
        const copy = curves.cloneNode(true);
        copy.querySelector("h3").remove();
        figure.append(copy);
      }
      return figure;
    };
    const show = () => {
      const chosen = [first, second].map(select => runs[select.selectedIndex]);
      pair.replaceChildren(...chosen.map(pictures));
      chosen.forEach((run, place) => { heads[place + 1].textContent = run.name; });
      const names = [...new Set(chosen.flatMap(run => Object.keys(run.params)))];
      const rows = Object.keys(chosen[0].numbers).map(name => row(name, chosen.map(run => run.numbers[name]), false));
      for (const name of names) {
        const values = chosen.map(run => run.params[name]), absent = values.some(value => value == null);
        if (values.every(value => value == null) || (!equalToo.checked && values[0] === values[1])) continue;
        rows.push(row(name, values, !absent && values[0] !== values[1]));
      }
      body.replaceChildren(...rows);
    };
    for (const control of [first, second, equalToo]) control.addEventListener("change", show);
    show();
  }
}
