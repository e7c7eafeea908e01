// A cursor on the map of chunks: arrows, Home, End and Page keys move it, Enter or a blank opens what it is on.
const look = () => {
  const view = Bokeh.index.find_one(figure)
  if (!view) return requestAnimationFrame(look)
  let at = -1
  const show = () => {
    const {x, y} = source.data, there = at >= 0 && at < x.length
    cursor.data = there ? {x: [x[at]], y: [y[at]]} : {x: [], y: []}
    const tell = (format) => said.format(null, format, {index: at})
    note.text = there ? `<div class="b num quiet">${["name", "condition", "facts"].map(tell).join(" · ")}</div>` : ""
  }
  const steps = (across) => ({ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across, ArrowDown: across,
    PageUp: -10 * across, PageDown: 10 * across})
  view.el.addEventListener("keydown", (event) => {
    const count = source.data.x.length, step = steps(figure.x_range.end)[event.key]
    if (!count || event.ctrlKey || event.altKey || event.metaKey) return
    const here = Math.min(at, count - 1)
    if (step) at = here < 0 ? 0 : Math.min(count - 1, Math.max(0, here + step))
    else if (event.key == "Home") at = 0
    else if (event.key == "End") at = count - 1
    else if (event.key == "Escape") at = -1
    else if ((event.key == "Enter" || event.key == " ") && here >= 0) source.selected.indices = [here]
    else return
    event.preventDefault()
    show()
  })
  view.el.addEventListener("blur", () => { at = -1; show() })
}
look()
