"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("plots").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 600px)");
  const axis = (given, colours, small) => ({
    ...given,
    title: given.title ? { ...given.title, font: { size: small ? 11 : 13 }, standoff: small ? 6 : 12 } : undefined,
    gridcolor: colours.grid,
    linecolor: colours.grid,
    zerolinecolor: colours.grid,
    automargin: true,
    dtick: given.autorange === "reversed" ? 1 : given.dtick,
    fixedrange: small,
    nticks: given.tickvals || given.type === "log" || given.autorange === "reversed" ? undefined : small ? 5 : 9,
  });
  const layout = (figure, height) => {
    const small = narrow.matches;
    const colours = dark.matches ? { ink: "#e7ebf0", grid: "#343d49", paper: "#1b2129" } : { ink: "#1b2430", grid: "#d5dbe2", paper: "#ffffff" };
    const given = figure.layout;
    const made = {
      ...given,
      height,
      font: { color: colours.ink, size: small ? 11 : 13, family: "system-ui, sans-serif" },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: small ? 8 : 16, r: small ? 8 : 16, t: given.showlegend === false ? 6 : 36, b: 8 },
      legend: { orientation: "h", x: 0, y: 1, yanchor: "bottom", font: { color: colours.ink } },
      hoverlabel: { bgcolor: colours.paper, font: { color: colours.ink }, bordercolor: colours.grid, align: "left" },
      xaxis: axis(given.xaxis, colours, small),
      yaxis: axis(given.yaxis, colours, small),
      dragmode: small ? false : "zoom",
    };
    if (small && given.meta && given.meta.short) made.yaxis.ticktext = given.meta.short;
    return made;
  };
  const settings = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const draw = () => {
    for (const [id, figure] of Object.entries(figures)) {
      const place = document.getElementById(id);
      const height = Number(place.dataset.height);
      Plotly.react(place, figure.data, layout(figure, height), { ...settings, displayModeBar: narrow.matches ? false : "hover" });
    }
    document.documentElement.dataset.drawn = "yes";
  };
  dark.addEventListener("change", draw);
  narrow.addEventListener("change", draw);
  draw();
})();
