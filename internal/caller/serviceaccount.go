package caller

// ServiceAccounts begins the user names that Kubernetes gives its ServiceAccounts. A
// namespace follows, a colon, and a name.
const ServiceAccounts = "system:serviceaccount:"

// ServiceAccountName returns the user name of a ServiceAccount.
func ServiceAccountName(namespace, name string) string {
	return ServiceAccounts + namespace + ":" + name
}
