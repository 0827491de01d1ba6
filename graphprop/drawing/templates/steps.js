"use strict";
// One step at a time: that of the address's fragment, the first by default.
const sections = [...document.querySelectorAll("main > section")];
const links = [...document.querySelectorAll("header ol a")];
const status = document.getElementById("status");
function current() {
  const found = sections.findIndex((section) => "#" + section.id === location.hash);
  return found < 0 ? 0 : found;
}
function show() {
  const index = current();
  sections.forEach((section, number) => { section.hidden = number !== index; });
  links.forEach((link, number) => {
    if (number === index) link.setAttribute("aria-current", "step");
    else link.removeAttribute("aria-current");
  });
  document.getElementById("back").disabled = index === 0;
  document.getElementById("next").disabled = index === sections.length - 1;
  status.textContent = "step " + (index + 1) + " of " + sections.length;
  window.scrollTo(0, 0);
}
function step(by) {
  const index = Math.min(Math.max(current() + by, 0), sections.length - 1);
  location.hash = sections[index].id;
}
function unfold() {
  const folded = [...sections[current()].querySelectorAll(".compare details")];
  const open = folded.some((one) => !one.open);
  folded.forEach((one) => { one.open = open; });
}
document.getElementById("back").addEventListener("click", () => step(-1));
document.getElementById("next").addEventListener("click", () => step(1));
document.getElementById("unfold").addEventListener("click", unfold);
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.target.closest && event.target.closest("[role=region]")) return;
  if (event.key === "ArrowRight") step(1);
  else if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "u") unfold();
});
document.getElementById("controls").hidden = false;
window.addEventListener("hashchange", show);
show();
