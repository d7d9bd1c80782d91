/** The pages that one can go to from everywhere; key comes after g. */
export const places = [
  { to: "/jobs", key: "j", name: "Jobs" },
  { to: "/deployments", key: "p", name: "Deployments" },
  { to: "/clusters", key: "c", name: "Clusters" },
  { to: "/queue", key: "q", name: "Queue & quota" },
  { to: "/settings", key: "s", name: "Settings" },
  { to: "/docs", key: "d", name: "Docs" },
] as const;
