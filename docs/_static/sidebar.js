// The sidebar may be longer than the screen: show the entry of the current page in it.
document.addEventListener("DOMContentLoaded", () => {
  const pages = document.querySelectorAll(".sidebar-tree .current-page");
  const current = pages[pages.length - 1];
  const scroller = document.querySelector(".sidebar-scroll");
  if (!current || !scroller) return;
  const [entry, view] = [current.getBoundingClientRect(), scroller.getBoundingClientRect()];
  if (entry.bottom > view.bottom) scroller.scrollTop += entry.bottom - view.bottom + view.height / 3;
});
